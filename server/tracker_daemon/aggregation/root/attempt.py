"""One attempt at a root: the reports of ranks, and the ranks that cells wait for.

All reports of one tick are applied before anything is decided (see :mod:`closing`). Ticks are journalled, so
a replay decides the same. Time is the tick's journalled time.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.membership import Membership
from tracker_daemon.aggregation.root.panel import NEVER, NO_OWNER, OPEN, UNLEARNED, RootPanel
from tracker_daemon.aggregation.shared.attempt import Attempt, RankReport
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.marks import ClosedMarks, Key
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Plan
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import Rows
from tracker_daemon.rules.metric_names import SUFFIXES, aggregate_base, rank_base, rank_column
from tracker_daemon.rules.rank_selection import Reporters


@dataclass(slots=True, eq=False)
class Extras:
    """Own values that join a record from outside the panels: texts, and late numbers."""

    texts: dict[str, str]
    numbers: dict[str, float]
    time_ns: int


class RootAttempt(Attempt[RootPanel]):
    """One attempt of a run. *Fenced*, it is over: all later values are late."""

    def __init__(self, number: int, rules: Rules, books: Books, notices: list[str]) -> None:
        super().__init__(number, rules, books, notices)
        self.fenced = False
        self.membership = Membership(0)
        self.parts_at: dict[Key, list[tuple[int, int]]] = {}  # (panel, row), in order
        self.extras: dict[Key, Extras] = {}
        self.serial = 0
        # Per rank: the newest row in time, misses in a row, the last step.
        self.newest: dict[int, int] = {}
        self.missed: dict[int, int] = {}
        self.last_step: dict[int, int] = {}
        self.recent: deque[Key] = deque(maxlen=rules.lagging_after_cells + 1)
        self.touched: dict[int, list[Integers]] = {}
        self.next_timeout_ns = 0
        self.settled_ns = 0

    # ---- metrics ---------------------------------------------------------------------------------

    def join(self, rank: int, world_size: int) -> None:
        """Note that a rank has connected; the largest world size that a rank states holds."""
        self.membership.joined(rank, world_size)

    def open_panel(self, names: tuple[str, ...]) -> None:
        """Add a panel for these metrics, which are in no other."""
        panel = RootPanel(names)
        self.choose_statistics(panel)
        self.add_panel(panel)
        for column, name in enumerate(names):
            who = self.rules.reporters_of(name)
            if who is not None:
                self._preset_reporters(panel, column, who)

    def choose_statistics(self, panel: RootPanel) -> None:
        """Set the aggregates that the run's rules record; the rules hold for the whole run."""
        for column, name in enumerate(panel.names):
            wanted = self.rules.statistics_of(name)
            panel.wanted[column] = [suffix in wanted for suffix in SUFFIXES]

    def _preset_reporters(self, panel: RootPanel, column: int, who: Reporters) -> None:
        expected = self.membership.expected()
        awaited = expected - self.lagging
        ranks = sorted(expected) if who is Reporters.ALL else [self.rules.primary_rank]
        slots = np.array([panel.slot(rank) for rank in ranks], np.int64)
        panel.learn(column, slots, np.array([rank in awaited for rank in ranks], np.bool_))
        self.fix_layout(panel, column)

    def fix_layout(self, panel: RootPanel, column: int) -> None:
        """Fix a metric's names at its first closing: the rank that has the plain name, and the aggregates."""
        members = np.flatnonzero(panel.ever_member[:, column])
        sole = len(members) == 1
        panel.owner[column] = panel.ranks[members[0]] if sole else self.rules.primary_rank
        panel.note_several(np.array([column]))

    # ---- names -----------------------------------------------------------------------------------

    def own_column(self, panel: RootPanel, column: int, rank: int) -> str | None:
        """Return the column of a rank's own value; None if it is not recorded."""
        name, owner = panel.names[column], int(panel.owner[column])
        if rank == (self.rules.primary_rank if owner == NO_OWNER else owner):
            return None if self.is_computed(name) else name
        return rank_column(name, rank) if self.records(panel, rank) else None

    def records(self, panel: RootPanel, rank: int) -> bool:
        """Return True if this rank's values of a metric of ``panel`` are recorded under the rank's name."""
        if rank != self.rules.primary_rank:
            return self.rules.records(rank)
        # The sole reporter took the plain name before the primary reported.
        return bool(((panel.owner != rank) & (panel.owner != NO_OWNER)).any())

    def is_computed(self, name: str) -> bool:
        """Return True if the daemon itself records a column ``name``, in place of a script's own value."""
        base, rank = rank_base(name) or (aggregate_base(name), None)
        if base is None or base not in self.place_of:
            return False
        index, column = self.place_of[base]
        panel = self.panels[index]
        if rank is None:
            suffix = SUFFIXES.index(name.rpartition("/")[2])
            computed = bool(panel.aggregated[column] and panel.wanted[column, suffix])
        else:
            computed = rank in panel.slot_of and panel.owner[column] != rank and self.records(panel, rank)
        if computed:
            self.books.warn_once(
                self.notices,
                ("computed", name),
                f"{name!r} is logged by the script and recorded by the daemon across ranks; "
                "the daemon's value is the one recorded",
            )
        return computed

    # ---- contributions ---------------------------------------------------------------------------

    def contribute(self, rank: int, plan: Plan, block: Rows, now_ns: int) -> None:
        """Apply a rank's rows."""
        self.last_step[rank] = int(block.steps[-1])
        for index, report in self.reports(rank, plan, block):
            self.put(index, report, now_ns)

    def put(self, index: int, report: RankReport, now_ns: int) -> None:
        """Apply a report; each of its cells is new to the rank."""
        panel, rank, values = self.panels[index], report.rank, report.values
        assert values is not None, "a summary is merged, not put"
        if self.fenced:
            self.keep_late(panel, report, np.ones(values.shape, np.bool_))
            return
        slot = panel.slot_of[rank]
        rows = self.rows(index, report.keys, report.times_ns, rank)
        late = panel.contribute(slot, rows, report.columns, values, now_ns)
        self.note_in_time([rank], panel, rows, late)
        if late is not None:
            self.keep_late(panel, report, late)
        if rank == self.rules.primary_rank:
            panel.time_ns[rows] = report.times_ns
        if self.unawaited(panel, slot, report.columns).any():
            self.become_reporter(panel, slot, report, rows, late)
        self.touched.setdefault(index, []).append(rows)

    def rows(self, index: int, keys: list[Key], times_ns: Integers, rank: int) -> Integers:
        """Return the rows of a panel at ``keys``, where ``rank`` reports something; open missing ones."""
        panel = self.panels[index]
        rows = [panel.row_of.get(key, -1) for key in keys]
        for i, row in enumerate(rows):
            if row >= 0:
                continue
            key = keys[i]
            self._note_recent(panel, key, rank)
            rows[i] = panel.open_row(key, self.serial, int(times_ns[i]))
            self.serial += 1
            insort(self.parts_at.setdefault(key, []), (index, rows[i]))
        return np.array(rows, np.int64)

    def note_in_time(self, ranks: list[int], panel: RootPanel, rows: Integers, late: Bits | None) -> None:
        """Note that ``ranks`` have reached those of these rows for which they were in time."""
        in_time = rows if late is None else rows[~late.all(axis=1)]
        if not len(in_time):
            return
        newest = int(panel.serial[in_time].max())
        for rank in ranks:
            self.missed[rank] = 0
            self.newest[rank] = max(self.newest.get(rank, -1), newest)

    def keep_late(self, panel: RootPanel, report: RankReport, late: Bits) -> None:
        """Count values that are late for the aggregates; a recorded rank's own values are still emitted."""
        i, j = (int(first) for first in np.argwhere(late)[0])
        self.books.count_late(report.rank, int(late.sum()))
        self.books.warn_once(
            self.notices,
            ("late", report.rank),
            f"rank {report.rank}: values arrived after their cells had closed; they are not in the "
            f"aggregates (first: {panel.names[report.columns[j]]!r} at step {report.keys[i][0]})",
        )
        if report.values is None:
            return
        for j, column in enumerate(report.columns.tolist()):
            name = self.own_column(panel, column, report.rank)
            if name is None:
                continue
            for i in np.flatnonzero(late[:, j]).tolist():
                extras = self.extras_at(report.keys[i], int(report.times_ns[i]))
                extras.numbers[name] = float(report.values[i, j])

    def extras_at(self, key: Key, time_ns: int) -> Extras:
        """Return the values that join the record at ``key`` from outside the panels."""
        return self.extras.setdefault(key, Extras({}, {}, time_ns))

    # ---- awaited ranks ---------------------------------------------------------------------------

    def unawaited(self, panel: RootPanel, slots: int | Integers, columns: Integers) -> Bits:
        """Return which of ``columns`` are learned and do not wait for ``slots`` (one, or of shape (s, 1))."""
        new: Bits = panel.learned[columns] & (panel.member_from[slots, columns] == NEVER)
        return new

    def become_reporter(
        self, panel: RootPanel, slot: int, report: RankReport, rows: Integers, late: Bits | None
    ) -> None:
        """Make a rank a reporter, from this cell on, of the learned metrics that it now reports first."""
        new = self.unawaited(panel, slot, report.columns)
        joining = report.columns[new]
        panel.note_reporter(slot, joining)
        if report.rank in self.membership.lagging:
            self._catch_up(report)
        if not self.membership.is_awaited(report.rank):
            return
        in_time = rows if late is None else rows[~late[:, new].all(axis=1)]
        serial = int(panel.serial[in_time].min()) if len(in_time) else self.serial
        panel.join(slot, joining, serial)

    def _note_recent(self, panel: RootPanel, key: Key, rank: int) -> None:
        """Remember the newest keys of ranks that do not lag: a lagging rank catches up by reaching one."""
        if key in self.recent or panel.marks.any_at(key):
            return
        members = self.membership
        if rank not in members.lagging or not any(map(members.is_awaited, members.seen)):
            self.recent.append(key)

    def _catch_up(self, report: RankReport) -> None:
        """Wait again for a lagging rank that has reached the newest rows."""
        if any(key in self.recent for key in report.keys):
            self.membership.lagging.discard(report.rank)
            self.missed[report.rank] = 0
            self.notices.append(f"rank {report.rank} has caught up and is waited for again")

    def depart(self, rank: int, how: str) -> None:
        """Note that a rank is "finished", "lost" or "absent": nothing waits for it any more."""
        self.membership.left(rank, how)
        self.wait_no_more(rank)

    def wait_no_more(self, rank: int) -> None:
        """Stop waiting for this rank, until it reports again."""
        for index, panel in enumerate(self.panels):
            slot = panel.slot_of.get(rank)
            if slot is not None:
                panel.leave(slot, np.arange(panel.width))
                self.touch_all(index)

    def touch_all(self, index: int) -> None:
        """Mark every row of a panel for a look when the tick settles."""
        self.touched.setdefault(index, []).append(self.panels[index].live_rows())

    def restart_timers(self, now_ns: int) -> None:
        """Start every wait again: the daemon was away until now, and no rank could be in time."""
        for panel in self.panels:
            panel.opened_ns[panel.live_rows()] = now_ns
        self.membership.flushed_ns.clear()
        self.next_timeout_ns = 0

    def fence(self) -> None:
        """Fence the attempt: the next one has begun, and every cell has been emitted; the marks may go."""
        self.fenced = True
        for panel in self.panels:
            panel.marks = ClosedMarks(panel.width)

    # ---- state -----------------------------------------------------------------------------------

    @property
    def lagging(self) -> set[int]:
        """The ranks for which nothing waits until they have caught up."""
        return self.membership.lagging

    def next_deadline_ns(self) -> int | None:
        """Return the time at which something changes without an event; None while nothing waits."""
        deadlines = []
        for panel in self.panels:
            rows = panel.live_rows()
            waiting = panel.state[rows] == OPEN
            if waiting.any():
                deadlines.append(int(panel.opened_ns[rows][waiting].min()) + self.rules.partial_after_ns)
            pending = np.flatnonzero(panel.first_row != UNLEARNED)
            patient = panel.opened_ns[panel.first_row[pending], pending] + self.rules.learn_wait_ns
            # After its time a wait lasts until the ranks have flushed, and a flush is an event itself.
            deadlines.extend(patient[patient > self.settled_ns].tolist())
        return min(deadlines, default=None)

    def is_learning(self) -> bool:
        """Return True if a metric's reporters must still be learned, so that flushes matter."""
        return any((panel.first_row != UNLEARNED).any() for panel in self.panels)

    def open_points(self) -> int:
        """Return the number of values in cells that are not emitted."""
        return sum(panel.open_points() for panel in self.panels)
