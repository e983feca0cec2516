"""What a release is made of: the lock fits pyproject.toml and says nothing of machines, and known vulnerabilities are found."""

import json
import re
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.advisories import LOCK, ROOT, ignored, judge
from tests.support import SECONDS

LINUX = {"sys_platform": "linux", "implementation_name": "cpython", "platform_system": "Linux", "python_version": "3.11"}


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """Return each line of the lock by its name: what it asks for, and its hashes."""
    found: dict[str, tuple[Requirement, list[str]]] = {}
    text = re.sub(r"#.*", "", LOCK.read_text("utf-8")).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        what, *hashes = re.split(r"\s--hash=", line)
        requirement = Requirement(what)
        found[canonicalize_name(requirement.name)] = requirement, [each.strip() for each in hashes]
    return found


# ------------------------------------------------------------------------------------------------------------- the lock


def test_each_line_is_one_version_with_hashes() -> None:
    for name, (requirement, hashes) in locked().items():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), name
        assert requirement.url is None
        assert hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), name


def test_it_names_no_registry_and_no_machine() -> None:
    names = r"://|^-|index-url|trusted-host|find-links|\b[\w-]+\.(?:org|com|net|io|dev)\b|/(home|root|tmp|opt|work|usr)/|@ "
    for lock in (LOCK, LOCK.with_name("requirements-build.txt")):
        assert not re.search(names, lock.read_text("utf-8"), re.MULTILINE), lock.name


def test_it_has_what_pyproject_asks_for_and_what_that_asks_for() -> None:
    lock = locked()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [(each, "") for each in map(Requirement, project["dependencies"])]
    seen = set()
    while wanted:
        requirement, extra = wanted.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({**LINUX, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in lock, f"{requirement} is not in the lock: make lock"
        [version] = lock[name][0].specifier
        assert requirement.specifier.contains(version.version, prereleases=True), f"{requirement}: make lock"
        for each in {"", *requirement.extras}:
            if (name, each) not in seen and metadata.version(name) == version.version:  # only what is here can be asked
                seen.add((name, each))
                wanted += [(further, each) for further in map(Requirement, metadata.requires(name) or ())]
    assert len(seen) > 20


# ----------------------------------------------------------------------------------------------------------- advisories


@contextmanager
def advisories(**vulnerable: str) -> Iterator[list[str]]:
    """Run a service that speaks OSV, and yield how to have it asked: the vulnerable packages, and the advisory of each."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"]
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}]
            affected = {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges, "versions": [asked["version"]]}
            advisory = {"id": vulnerable.get(name), "summary": "bad", "modified": "2026-01-01T00:00:00Z", "affected": [affected]}
            body = json.dumps({"vulns": [advisory]} if name in vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield ["--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query"]
        finally:
            server.shutdown()
            thread.join(SECONDS)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text("".join(f"{name}==1.0 --hash=sha256:{'0' * 64}\n" for name in ("rich", "attrs")))
    return path


def test_a_known_vulnerability_is_a_failure_that_says_what_to_do(lock: Path) -> None:
    with advisories(rich="GHSA-x") as service:
        assert judge(lock, [service], {}) == (1, ["vulnerable: rich 1.0: GHSA-x, fixed in 999"])


def test_one_that_does_not_concern_us_is_told_with_its_reason(lock: Path) -> None:
    with advisories(rich="GHSA-x", attrs="GHSA-y") as service:
        assert judge(lock, [service], {"GHSA-y": "not used"})[0] == 1
        code, said = judge(lock, [service], {"GHSA-x": "not used so", "GHSA-y": "nor this"})
        assert (code, said[1:]) == (0, ["ignored: GHSA-x: not used so", "ignored: GHSA-y: nor this"])


def test_without_any_it_says_how_much_was_looked_at(lock: Path) -> None:
    with advisories() as service:
        assert judge(lock, [service], {}) == (0, ["audited: none of 2 packages has a known vulnerability"])


def test_that_nobody_can_be_asked_is_said_and_the_next_one_is_asked(lock: Path) -> None:
    with advisories() as gone:
        pass
    code, [said] = judge(lock, [gone], {})
    assert (code, said) == (0, "not audited: no service that knows advisories can be reached (osv does not answer)")
    with advisories(attrs="GHSA-x") as service:
        assert judge(lock, [gone, service], {})[0] == 1


def test_what_cannot_be_read_is_not_taken_for_an_outage(lock: Path) -> None:
    lock.write_text("this is no lock\n")
    with advisories() as service, pytest.raises(RuntimeError, match="pip-audit has failed"):
        judge(lock, [service], {})


def test_what_is_ignored_has_a_reason(tmp_path: Path) -> None:
    assert ignored() is not None
    (tmp_path / "pyproject.toml").write_text('[tool.advisories]\nignored = {"GHSA-x" = " "}\n')
    with pytest.raises(AssertionError):
        ignored(tmp_path / "pyproject.toml")


# ----------------------------------------------------------------------------------------------------------- the sbom


def test_the_bill_of_materials_has_all_of_it_and_no_path(tmp_path: Path) -> None:
    made = subprocess.run(["make", "--dry-run", "sbom"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    steps = [line for line in made.replace("\\\n", " ").splitlines() if "cyclonedx-py" in line or "version=" in line]
    script = "\n".join(["set -e", "cd " + str(ROOT), *steps]).replace("dist/", f"{tmp_path}/")
    subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=2 * SECONDS)
    text = (tmp_path / "taskctl.cdx.json").read_text("utf-8")
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "taskctl")
    assert bill["metadata"]["component"]["version"]
    assert {canonicalize_name(each["name"]) for each in bill["components"]} == set(locked())
    assert all(each["purl"] and each["externalReferences"][0]["hashes"] for each in bill["components"])
    assert not re.search(rf"file:|{ROOT}|{tmp_path}|{Path.home()}/", text)
