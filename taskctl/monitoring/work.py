"""The dashboard of the tasks themselves."""

from typing import Final

from taskctl.monitoring.grafana import Dashboard, Panel, Query, Row
from taskctl.monitoring.promql import OURS, gauge, total

_LEAD: Final = "taskctl_task_lead_time_seconds"

WORK: Final = Dashboard(
    "work",
    "taskctl: the work",
    "The flow of tasks over all workspaces: how many there are, how many come and are done, and how long that takes.",
    "taskctl_build_info",
    (
        Row(
            "Now",
            (
                Panel(
                    "Open tasks",
                    "Tasks that are to be done or begun.",
                    "short",
                    [Query(f'sum(max by (status) (taskctl_tasks{{{OURS},status=~"todo|in_progress"}}))', "open")],
                    nothing="not counted yet",
                    kind="stat",
                    width=5,
                    height=5,
                ),
                Panel(
                    "In progress",
                    "Tasks that have been begun and are not done.",
                    "short",
                    [Query(f'max(taskctl_tasks{{{OURS},status="in_progress"}})', "in progress")],
                    nothing="not counted yet",
                    kind="stat",
                    width=5,
                    height=5,
                ),
                Panel(
                    "Overdue",
                    "The part of the open tasks that is past its due, in UTC.",
                    "percentunit",
                    [
                        Query(
                            f"{gauge('max', 'taskctl_tasks_overdue')}\n"
                            f'/ clamp_min(sum(max by (status) (taskctl_tasks{{{OURS},status=~"todo|in_progress"}})), 1)',
                            "overdue",
                        )
                    ],
                    nothing="not counted yet",
                    kind="stat",
                    limits=(0.1, 0.3),
                    width=5,
                    height=5,
                ),
                Panel(
                    "The oldest open task",
                    "Since it was created.",
                    "s",
                    [Query(gauge("max", "taskctl_oldest_open_task_age_seconds"), "age")],
                    nothing="not counted yet",
                    kind="stat",
                    limits=(90 * 86400, 365 * 86400),
                    width=5,
                    height=5,
                ),
                Panel(
                    "Counted",
                    "Since the tasks in the database were counted. In a large database that is done less often.",
                    "s",
                    [Query(gauge("min", "taskctl_tasks_age_seconds"), "ago")],
                    nothing="not counted yet",
                    kind="stat",
                    limits=(300, 600),
                    width=4,
                    height=5,
                ),
            ),
        ),
        Row(
            "What there is",
            (
                Panel(
                    "Tasks by status",
                    "All tasks in the database.",
                    "short",
                    [Query(gauge("max", "taskctl_tasks", "status"), "{{status}}")],
                    nothing="not counted yet",
                    stacked=True,
                    width=12,
                ),
                Panel(
                    "Overdue tasks",
                    "Open tasks past their due, in UTC.",
                    "short",
                    [Query(gauge("max", "taskctl_tasks_overdue"), "overdue")],
                    nothing="not counted yet",
                    width=12,
                ),
            ),
        ),
        Row(
            "What happens",
            (
                Panel(
                    "Come and done",
                    "Tasks that were added, and that became done, within an hour. Only through servers: what commands do to a database directly is not seen.",
                    "short",
                    [
                        Query(f"sum(increase(taskctl_tasks_created_total{{{OURS}}}[1h]))", "added"),
                        Query(f"sum(increase(taskctl_tasks_completed_total{{{OURS}}}[1h]))", "done"),
                    ],
                ),
                Panel(
                    "Growth",
                    "Tasks added within a day that were not made up for by others done: above 0 there is ever more to do.",
                    "short",
                    [
                        Query(
                            f"sum(increase(taskctl_tasks_created_total{{{OURS}}}[1d]))\n"
                            f"- sum(increase(taskctl_tasks_completed_total{{{OURS}}}[1d]))",
                            "more",
                        )
                    ],
                    low=None,
                ),
                Panel(
                    "Writes",
                    "Operations on tasks a second: additions, changes and removals.",
                    "ops",
                    [Query(total("taskctl_commit_operations_total"), "operations")],
                ),
                Panel(
                    "From added to done",
                    "How long tasks took that became done within a day: half of them, and nine of ten.",
                    "s",
                    [
                        Query(f"histogram_quantile(0.5, sum by (le) (increase({_LEAD}_bucket{{{OURS}}}[1d])))", "half within"),
                        Query(f"histogram_quantile(0.9, sum by (le) (increase({_LEAD}_bucket{{{OURS}}}[1d])))", "90 % within"),
                    ],
                    nothing="nothing done yet",
                    width=12,
                ),
                Panel(
                    "How long tasks took",
                    "Tasks that became done within an hour, by how long they took.",
                    "short",
                    [Query(f"sum by (le) (increase({_LEAD}_bucket{{{OURS}}}[1h]))", "{{le}}")],
                    nothing="nothing done yet",
                    kind="heatmap",
                    width=12,
                ),
            ),
        ),
    ),
)
