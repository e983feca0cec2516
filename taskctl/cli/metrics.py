"""`taskctl metrics`: the files that Prometheus and Grafana read, for those who have not cloned the repository."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from taskctl import monitoring
from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import FOR_PEOPLE, show_lines, show_object
from taskctl.errors import Conflict, UsageError

app = noun("Write the dashboards and rules that go with the metrics of a server.")

_Out = Annotated[str, typer.Option("--out", help="The folder to write them into; it is made if it is not there.")]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are different.")]


@command(app)
def dashboards(call: Call, out: _Out, force: _Force = False) -> None:
    """Write the dashboards, as the JSON that Grafana imports."""
    _write(call, monitoring.dashboards(), Path(out), force=force)


@command(app)
def rules(
    call: Call,
    out: _Out,
    force: _Force = False,
    runbook: Annotated[
        str, typer.Option(help="Where your copy of docs/runbook.md is read, for links in alerts.")
    ] = monitoring.RUNBOOK,
) -> None:
    """Write the recording rules and alerts, as the YAML that Prometheus reads (rule_files)."""
    _write(call, monitoring.rule_files(runbook), Path(out), force=force)


def _write(call: Call, files: Mapping[str, str], folder: Path, *, force: bool) -> None:
    """Write all files, or none if one is there already and different."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {name: (folder / name).read_text("utf-8") for name in files if (folder / name).exists()}
        different = [name for name, text in there.items() if text != files[name]]
        if different and not force:
            raise Conflict(f"{', '.join(different)} in {folder} would be overwritten, and had been changed: --force does it")
        for name, text in files.items():
            if there.get(name) != text:
                (folder / name).write_text(text, "utf-8", newline="\n")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{folder} cannot be written: {getattr(e, 'strerror', None) or e}") from None
    if call.settings.output not in FOR_PEOPLE:
        show_object({"folder": str(folder), "files": list(files)}, call.settings)
    elif not call.quiet:
        show_lines(str(folder / name) for name in files)
