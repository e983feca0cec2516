"""`python -m tests.advisories`: has anything that a release is made of a known vulnerability? `make check` asks this.

pip-audit knows what is in the lock, and asks one service after another until one answers. Where none can be reached, that is said
and is no failure: nobody is kept from working on a train. Anything else that keeps it from judging is one.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "contrib" / "docker" / "requirements.txt"
SERVICES = (("--vulnerability-service", "osv"), ("--vulnerability-service", "pypi"))
SECONDS = 10


def ignored(pyproject: Path = ROOT / "pyproject.toml") -> Mapping[str, str]:
    """Return the advisories that do not concern us, with the reason of each."""
    found: Mapping[str, str] = tomllib.loads(pyproject.read_text("utf-8"))["tool"]["advisories"]["ignored"]
    assert all(why.strip() for why in found.values()), "each advisory that is ignored needs a reason"
    return found


def judge(lock: Path, services: Sequence[Sequence[str]], passed_over: Mapping[str, str]) -> tuple[int, list[str]]:
    """Return the exit code, and what is to be said."""
    why = ""
    for service in services:
        found, why = _ask(lock, service, passed_over)
        if found is not None:
            bad = [
                f"vulnerable: {each['name']} {each['version']}: {', '.join([v['id'], *v['aliases']])}, "
                f"fixed in {', '.join(v['fix_versions']) or 'no version'}"
                for each in found
                for v in each.get("vulns", ())
            ]
            unknown = [each["name"] for each in found if "skip_reason" in each]
            if len(unknown) == len(found):
                why = "the service knows none of the packages"
                continue
            said = bad or [f"audited: none of {len(found) - len(unknown)} packages has a known vulnerability"]
            said += [f"not audited: {', '.join(unknown)}"] if unknown else []
            return bool(bad), [*said, *(f"ignored: {id}: {reason}" for id, reason in passed_over.items())]
    return 0, [f"not audited: no service that knows advisories can be reached ({why})"]


def _ask(lock: Path, service: Sequence[str], passed_over: Mapping[str, str]) -> tuple[list[dict[str, Any]] | None, str]:
    """Return what a service says of each package, or None and why it cannot be reached. Raises RuntimeError for all else."""
    options = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", str(SECONDS)]
    for id in passed_over:
        options += ["--ignore-vuln", id]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), *options, *service]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.stdout:
        return json.loads(ran.stdout)["dependencies"], ""
    if re.search(r"^(requests\.exceptions\.|\S*(ConnectionError|ServiceError)\b)", ran.stderr, re.MULTILINE):
        return None, f"{service[1]} does not answer"
    raise RuntimeError(f"pip-audit has failed:\n{ran.stderr}")


if __name__ == "__main__":
    code, said = judge(LOCK, SERVICES, ignored())
    sys.stdout.write("".join(f"{line}\n" for line in said))
    sys.exit(code)
