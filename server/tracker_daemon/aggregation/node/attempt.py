"""One attempt at a node: the values that its ranks have reported, and how far each rank is.

A later report of a row that was forwarded opens the row anew, so no values wait for a rank that is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tracker_daemon.aggregation.node.panel import Gathered, NodePanel
from tracker_daemon.aggregation.node.progress import RankProgress
from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.shared.attempt import Attempt, RankReport
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.placement import Plan
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import Rows


class NodeAttempt(Attempt[NodePanel]):
    """One attempt of a run. ``admit`` returns True if a new metric may have a place."""

    def __init__(
        self, number: int, rules: Rules, books: Books, notices: list[str], admit: Callable[[str], bool]
    ) -> None:
        super().__init__(number, rules, books, notices)
        self.world_size = 0
        self.live: set[int] = set()
        self.exit_codes: dict[int, int] = {}
        self.exiting: dict[int, bytes] = {}
        """The streams, by rank, of ranks that have ended and whose exit status is awaited."""
        self.progress = RankProgress()
        self._admit = admit

    def join(self, rank: int, world_size: int) -> None:
        """Note that a rank has connected; the largest world size that a rank states holds."""
        self.world_size = max(self.world_size, world_size)
        if rank not in self.exit_codes and rank not in self.exiting:
            self.live.add(rank)

    # ---- in --------------------------------------------------------------------------------------

    def admits(self, name: str) -> bool:
        """Return True if a new metric of this name may have a place."""
        return self._admit(name)

    def open_panel(self, names: tuple[str, ...]) -> None:
        """Add a panel for these metrics, which are in no other."""
        self.add_panel(NodePanel(names))

    def contribute(self, rank: int, plan: Plan, block: Rows, bars: Integers, window: int) -> None:
        """Write a rank's rows; ``bars`` are the highest steps that it had logged at each of them."""
        self.books.rejected += plan.refused * len(block.steps)
        for index, report in self.reports(rank, plan, block, bars):
            panel = self.panels[index]
            rows = panel.rows_at(report, window)
            panel.write(panel.slot_of[rank], rows, report)

    def keep_unplaced(self, panel: NodePanel, report: RankReport) -> None:
        """Count values that a rank has logged too often, or too far back, as late for the aggregates."""
        points = len(report.keys) * len(report.columns)
        name, step = panel.names[report.columns[0]], report.keys[0][0]
        self.books.count_unplaced(self.notices, report.rank, name, step, points)

    # ---- out -------------------------------------------------------------------------------------

    def take(self, window: int, *, everything: bool) -> Iterator[Gathered]:
        """Remove and yield the rows that are due when ``window`` ends, or ``everything``."""
        for panel in self.panels:
            if panel.row_of:
                rows = panel.live_rows() if everything else panel.due_rows(window, self.live)
                if len(rows):
                    yield panel.take(rows)

    def busy_ranks(self) -> set[int]:
        """Return the ranks whose values are still here."""
        return {rank for panel in self.panels if panel.row_of for rank in panel.busy_ranks()}

    def has_news(self) -> bool:
        """Return True if the root does not have everything yet."""
        return bool(self.open_rows()) or self.progress.has_news()

    def open_points(self) -> int:
        """Return the values that are not forwarded yet."""
        return sum(panel.points for panel in self.panels)
