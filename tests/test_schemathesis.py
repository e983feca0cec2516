"""schemathesis finds nothing: with all its checks, against a server on each database, by the document that the server gives out.

`make test` has it send some hundred requests to the one with a SQLite file, `make fuzz` many more, and to PostgreSQL as well.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import database
from tests.support import Shell, serving
from tests.test_generated_client import BIN, pytestmark  # noqa: F401  # it runs in the same environment, under the same condition

HERE = Path(__file__).parent


@pytest.mark.hypothesis
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.fuzz)])
def test_schemathesis_finds_nothing(kind: str, tmp_path: Path) -> None:
    fuzz = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
    examples = settings.default.max_examples // 4 if fuzz and settings.default is not None else 5
    with database() as url:
        shell, options = Shell(tmp_path), ["--database-url", url] if kind == "postgres" else []
        unlimited = [f"--rate-limit-{what}=off" for what in ("token", "address", "failures")]
        with serving(shell, "--auth", "tokens", *unlimited, *options) as server:
            token = shell("token", "create", "st", "--scope", "admin", *options).out.strip()
            ran = subprocess.run(
                [
                    *(BIN / "st", "--config-file", HERE / "schemathesis.toml", "run", f"{server.url}/openapi.json"),
                    *("--checks", "all", "--max-examples", str(examples), "--no-color"),
                    *("--header", f"Authorization: Bearer {token}"),
                    *(() if fuzz else ("--seed", "1")),
                ],
                env={
                    **os.environ,
                    "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py"),
                    "SCHEMATHESIS_TOKEN_ID": token.split("_")[2],
                    "SCHEMATHESIS_MET": str(tmp_path / "met.json"),
                    "HOME": str(tmp_path),
                },
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
    assert ran.returncode == 0, ran.stdout
    assert "Stateful" in ran.stdout
    met = json.loads((tmp_path / "met.json").read_text())
    assert {name for name, times in met.items() if times} == {"keys", "replays", "mismatches", "lists", "pages"}, met
