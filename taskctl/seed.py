"""Sample tasks: lifelike, and the same for the same seed, through any `TaskService`."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta

from taskctl.tasks import BATCH_MAX, Add, Changeset, NewTask, Status, TaskService

_WORK = {
    "work.api": ("Fix", "Review", "Document", "Refactor", "Measure", "Test", "Deprecate", "Design"),
    "work.billing": ("Reconcile", "Send", "Check", "Automate", "Explain", "Correct"),
    "work.hiring": ("Screen", "Interview", "Call", "Thank", "Plan"),
    "home": ("Clean", "Repair", "Sort out", "Water", "Paint", "Order"),
    "home.garden": ("Plant", "Water", "Prune", "Weed", "Order"),
    "travel": ("Book", "Cancel", "Compare", "Pack for", "Ask about"),
}
_THINGS = {
    "work.api": (
        "the pagination",
        "rate limits",
        "the changelog",
        "error messages",
        "the login flow",
        "slow queries",
        "webhooks",
    ),
    "work.billing": ("invoice {n}", "the March figures", "the reminder for customer {n}", "the tax table", "refund {n}"),
    "work.hiring": ("candidate {n}", "the referral of Zoë", "the panel for team {n}", "the advert"),
    "home": ("the kitchen", "the bicycle", "the drawer of cables", "the window in room {n}", "new filters", "the flowers"),
    "home.garden": ("the tomatoes", "the apple tree", "the herb bed", "seeds for bed {n}", "the roses"),
    "travel": ("the train to Kraków", "a room in Zürich", "the trip on day {n}", "insurance", "the ferry"),
}
_LABELS = ("quick", "waiting", "phone", "errand", "deep-work", "someday", "next")
_ORPHANS = ("Call back {n}", "Buy milk", "Renew the passport", "Read chapter {n}", "Ask Ines about Friday", "Подарок для мамы")
_NOTES = (
    "See the notes of last week's meeting.",
    "- first, look whether it still happens\n- then write down *when*",
    "Blocked until somebody answers.\n\nAsked on Monday.",
)


def sample(count: int, seed: int, today: date) -> Iterator[NewTask]:
    """Yield `count` tasks. The same count, seed and day give the same tasks; dues lie around `today`."""
    rng = random.Random(seed)  # nosec B311  # sample tasks are no secret
    projects = list(_WORK)
    for number in range(1, count + 1):
        project = rng.choice(projects) if rng.random() < 0.85 else None
        title = rng.choice(_ORPHANS)
        if project is not None:
            title = f"{rng.choice(_WORK[project])} {rng.choice(_THINGS[project])}"
        status: Status = rng.choices(("todo", "in_progress", "done", "cancelled"), (50, 12, 33, 5))[0]
        yield NewTask(
            title=title.format(n=number),
            description=rng.choice(_NOTES) if rng.random() < 0.2 else None,
            status=status,
            priority=rng.choices(("none", "low", "medium", "high", "urgent"), (40, 15, 25, 15, 5))[0],
            project=project,
            labels=rng.sample(_LABELS, rng.choices((0, 1, 2, 3), (45, 35, 15, 5))[0]),
            due=_due(rng, today),
        )


def _due(rng: random.Random, today: date) -> date | datetime | None:
    """Half of the tasks have a due, most of them soon; one in five of these at a time of the day."""
    if rng.random() < 0.5:
        return None
    day = today + timedelta(days=round(rng.triangular(-20, 60, 5)))
    if rng.random() < 0.8:
        return day
    return datetime.combine(day, time(rng.randrange(7, 20), rng.choice((0, 15, 30, 45))), UTC)


async def seed(tasks: TaskService, samples: Iterator[NewTask], progress: Callable[[int], None]) -> int:
    """Add the tasks, a batch at a time, and return how many. `progress` is told the size of each batch."""
    added = 0
    while batch := tuple(Add(task) for _, task in zip(range(BATCH_MAX), samples, strict=False)):
        await tasks.write(Changeset(batch))
        added += len(batch)
        progress(len(batch))
    return added
