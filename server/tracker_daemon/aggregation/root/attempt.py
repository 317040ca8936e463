"""One attempt at a root: the reports of ranks, and the ranks that cells wait for.

All reports of one tick are applied before anything is decided (see :mod:`closing` and :mod:`ordering`). Ticks
are journalled, so a replay decides the same. Time is the tick's journalled time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.membership import Membership
from tracker_daemon.aggregation.root.naming import Naming
from tracker_daemon.aggregation.root.panel.cells import NO_OWNER, OTHER, PRIMARY, SOLE
from tracker_daemon.aggregation.root.panel.contributions import Homes, RootPanel
from tracker_daemon.aggregation.root.panel.reporters import NEVER, UNLEARNED
from tracker_daemon.aggregation.root.progress import RankProgress
from tracker_daemon.aggregation.root.rows import RowQueue, UnplacedValue
from tracker_daemon.aggregation.shared.attempt import Attempt, RankReport
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.marks import ClosedMarks, Key
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Index, Plan, index_of, numbers_of
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import Rows
from tracker_daemon.rules.metric_names import SUFFIXES, rank_column
from tracker_daemon.rules.rank_selection import Reporters
from tracker_protocol import limits
from tracker_protocol.kinds import Kind


class RootAttempt(Attempt[RootPanel]):
    """One attempt of a run. *Fenced*, it is over: all later values are late."""

    def __init__(
        self, number: int, rules: Rules, books: Books, notices: list[str], naming: Naming | None = None
    ) -> None:
        super().__init__(number, rules, books, notices)
        self.naming = naming or Naming(rules, books, notices)
        self.fenced = False
        self.membership = Membership(0)
        self.progress = RankProgress()
        self.queues: dict[int, RowQueue] = {}
        self.sole_owners: set[int] = set()
        """Ranks, other than the primary, that alone report a metric."""
        self.unplaced: dict[str, list[UnplacedValue]] = {}
        """By unlearned metric, values without a cell of ranks that may turn out to be its sole reporter."""
        self.first_hello_ns: int | None = None
        self.serial = 0
        self.missed: dict[int, int] = {}
        """By rank, the cells that closed without it since its last report in time."""
        self.recent: deque[Key] = deque(maxlen=rules.lagging_after_cells + 1)
        """The keys that ranks that do not lag reached last."""
        self.unvouched: set[Key] = set()
        """Keys that only lagging ranks have reached."""
        self.caught_up: dict[int, list[tuple[int, RankReport, int]]] = {}
        """By lagging rank, its reports of this tick: the panel, the report, the lowest serial in time."""
        self.touched: set[int] = set()
        """The panels with rows to look at when the tick settles."""
        self._home_codes: dict[int, int] = {}
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
        primary = panel.slot_of.get(self.rules.primary_rank)
        sole = len(members) == 1 and (primary is None or not panel.has_reported(primary, column))
        panel.owner[column] = panel.ranks[members[0]] if sole else self.rules.primary_rank
        panel.note_several(np.array([column]))
        if sole and panel.owner[column] != self.rules.primary_rank:
            self._house_sole(panel, column)
        self._emit_unplaced(panel, column)

    def _house_sole(self, panel: RootPanel, column: int) -> None:
        """Make the sole reporter's rows the homes of the metric's cells, also of those that are open."""
        rank = int(panel.owner[column])
        self.sole_owners.add(rank)
        rows = panel.live_rows()
        rows = rows[panel.seen[rows, panel.slot_of[rank], column]]
        mine = (panel.home[rows, column] == OTHER + rank) | (panel.home[rows, column] == rank)
        rows = rows[mine & (panel.home_row[rows, column] >= 0)]
        panel.home[rows, column] = SOLE
        if self.rules.records(rank) or not len(rows):
            return  # a recorded rank's rows are in its queue already
        queue, index = self.queue(rank), self.place_of[panel.names[column]][0]
        columns = np.array([column])
        for row in rows[np.argsort(panel.serial[rows])].tolist():
            number, step = int(panel.home_row[row, column]), int(panel.step[row])
            home = queue.row(number, step, int(panel.time_ns[row]), int(panel.opened_ns[row, column]))
            home.parts.append((index, row, int(panel.serial[row]), columns))

    # ---- names -----------------------------------------------------------------------------------

    def own_column(self, panel: RootPanel, column: int, rank: int) -> str | None:
        """Return the column of a rank's own value; None if it is not recorded."""
        owner = int(panel.owner[column])
        name = self.naming.shown(panel, column, self)
        if rank == (self.rules.primary_rank if owner == NO_OWNER else owner):
            return name
        return rank_column(name, rank) if self.records(panel, rank) else None

    def records(self, panel: RootPanel, rank: int) -> bool:
        """Return True if this rank's values of a metric of ``panel`` are recorded under the rank's name."""
        if rank != self.rules.primary_rank:
            return self.rules.records(rank)
        # The sole reporter took the plain name before the primary reported.
        return bool(((panel.owner != rank) & (panel.owner != NO_OWNER)).any())

    # ---- contributions ---------------------------------------------------------------------------

    def contribute(self, rank: int, plan: Plan, block: Rows, bars: Integers, now_ns: int) -> None:
        """Apply a rank's rows; ``bars`` are the highest steps that it had logged at each of them."""
        for index, report in self.reports(rank, plan, block, bars):
            self.put(index, report, now_ns)

    def put(self, index: int, report: RankReport, now_ns: int) -> None:
        """Apply a report; each of its cells is new to the rank."""
        panel, rank, values = self.panels[index], report.rank, report.values
        assert values is not None, "a summary is merged, not put"
        if self.fenced:
            self.keep_late(panel, report, np.ones(values.shape, np.bool_))
            return
        slot = panel.slot_of[rank]
        rows = self.rows(index, report.keys, report.times_ns, [rank])
        home = self._home(panel, rank, report.index)
        late = panel.contribute(slot, rows, report, home, now_ns)
        self.note_in_time([rank], late)
        if late is not None:
            self.keep_late(panel, report, late)
        if not isinstance(home, int) or home < OTHER:
            self._house(index, rows, report, home, late, now_ns)
        if panel.awaited_from(slot, report.index) == NEVER:
            self._note_joining(index, slot, report, rows, late)
        self.touch(index, rows)

    def _note_joining(
        self, index: int, slot: int, report: RankReport, rows: Index, late: Bits | None
    ) -> None:
        if self.unawaited(self.panels[index], slot, report.columns).any():
            self.become_reporter(index, slot, report, numbers_of(rows), late)

    def _home(self, panel: RootPanel, rank: int, columns: Index) -> Homes:
        code = self._home_codes.get(rank)
        if code is None:
            code = self._home_codes[rank] = self._home_code(rank)
        if rank in self.sole_owners:
            return np.where(panel.owner[columns] == rank, SOLE, code)
        return code

    def _home_code(self, rank: int) -> int:
        if rank == self.rules.primary_rank:
            return PRIMARY
        return rank if self.rules.records(rank) else OTHER + rank

    def _house(
        self,
        index: int,
        rows: Index,
        report: RankReport,
        home: Homes,
        late: Bits | None,
        now_ns: int,
    ) -> None:
        """Add the cells that are in time to the rows of a rank whose rows are homes."""
        panel, queue = self.panels[index], self.queue(report.rank)
        columns = report.columns if isinstance(home, int) else report.columns[home < OTHER]
        if not len(columns):
            return
        serials, panel_rows = panel.serial[rows].tolist(), numbers_of(rows).tolist()
        numbers, times = report.numbers.tolist(), report.times_ns.tolist()
        for i, (number, (step, _)) in enumerate(zip(numbers, report.keys, strict=True)):
            if number < 0:
                continue
            taken = columns
            if late is not None:
                taken = report.columns[(home < OTHER) & ~late[i]]
                if not len(taken):
                    continue
            row = queue.row(number, step, times[i], now_ns)
            row.parts.append((index, panel_rows[i], serials[i], taken))

    def note_axes(
        self, known: frozenset[str], rank: int, names: tuple[str, ...], block: Rows, now_ns: int
    ) -> None:
        """Keep values of the metrics ``known`` to be axes with the rows of a rank that has a queue."""
        if not known.intersection(names) or not self.houses(rank):
            return
        queue = self.queue(rank)
        axes = [(column, name) for column, name in enumerate(names) if name in known]
        rows = zip(block.row_numbers.tolist(), block.steps.tolist(), block.times_ns.tolist(), strict=True)
        for i, (number, step, time_ns) in enumerate(rows):
            row = queue.row(number, step, time_ns, now_ns)
            row.axes = {**row.axes, **{name: float(block.values[i, column]) for column, name in axes}}

    def houses(self, rank: int) -> bool:
        """Return True if the rank's rows are homes of cells."""
        return self.rules.records_own_values(rank) or rank in self.sole_owners

    def queue(self, rank: int) -> RowQueue:
        """Return the rows of a rank; from now on they are kept."""
        queue = self.queues.get(rank)
        if queue is None:
            queue = self.queues[rank] = RowQueue()
        return queue

    def expects_several(self) -> bool:
        """Return True if more than one rank is expected."""
        return self.membership.expects_several()

    def rows(self, index: int, keys: list[Key], times_ns: Integers, ranks: list[int]) -> Index:
        """Return the rows of a panel at ``keys``, where ``ranks`` report something; open missing ones."""
        panel = self.panels[index]
        rows = [panel.row_of.get(key, -1) for key in keys]
        if self.unvouched or -1 in rows:
            self._note_reached(panel, keys, rows, ranks)
            missing = [i for i, row in enumerate(rows) if row < 0]
            if missing:
                opened = panel.open_rows([keys[i] for i in missing], self.serial, times_ns[missing])
                self.serial += len(missing)
                for i, row in zip(missing, opened, strict=True):
                    rows[i] = row
        return index_of(rows)

    def _note_reached(self, panel: RootPanel, keys: list[Key], rows: list[int], ranks: list[int]) -> None:
        """Note reached keys that have no row yet, and those that no rank beside lagging ones had reached."""
        lagging = self.lagging
        vouched = not lagging or not lagging.issuperset(ranks) or self.membership.none_awaited()
        for key, row in zip(keys, rows, strict=True):
            if row < 0 or (vouched and key in self.unvouched):
                self._note_recent(panel, key, vouched=vouched)

    def _note_recent(self, panel: RootPanel, key: Key, *, vouched: bool) -> None:
        """Remember the newest keys of ranks that do not lag: a lagging rank catches up by reaching one."""
        if key in self.recent or panel.marks.any_at(key):
            return
        if vouched:
            self.unvouched.discard(key)
            self.recent.append(key)
        elif len(self.unvouched) < limits.CLOSED_MARKS_PER_PANEL:
            self.unvouched.add(key)

    def note_in_time(self, ranks: list[int], late: Bits | None) -> None:
        """Note that ``ranks`` have reported something in time."""
        if late is not None and late.all():
            return
        for rank in ranks:
            self.missed[rank] = 0

    # ---- values that are late, or beyond the bounds ----------------------------------------------

    def keep_late(self, panel: RootPanel, report: RankReport, late: Bits) -> None:
        """Count values that are late for the aggregates; recorded ranks' own values are still emitted."""
        i, j = (int(first) for first in np.argwhere(late)[0])
        self.books.count_late(report.rank, int(late.sum()))
        self.books.warn_once(
            self.notices,
            ("late", report.rank),
            f"rank {report.rank}: values arrived after their cells had closed; they are not in the "
            f"aggregates (first: {panel.names[report.columns[j]]!r} at step {report.keys[i][0]})",
        )
        self._emit_alone(panel, report, late)

    def keep_unplaced(self, panel: RootPanel, report: RankReport) -> None:
        """Emit own values that a rank has logged too often, or too far back; no aggregate has them."""
        points = len(report.keys) * len(report.columns)
        if self.membership.is_alone(report.rank):
            self.books.folded += points
        else:
            name, step = panel.names[report.columns[0]], report.keys[0][0]
            self.books.count_unplaced(self.notices, report.rank, name, step, points)
        self._emit_alone(panel, report, np.ones((len(report.keys), len(report.columns)), np.bool_))

    def _emit_alone(self, panel: RootPanel, report: RankReport, chosen: Bits) -> None:
        """Put own values of recorded ranks into their rows, apart from the cells."""
        unlearned = panel.owner[report.columns] == NO_OWNER
        if report.values is None or not (self.houses(report.rank) or unlearned.any()):
            return
        for j in np.flatnonzero(chosen.any(axis=0)).tolist():
            column = int(report.columns[j])
            name = self.own_column(panel, column, report.rank)
            if name is not None:
                self._add_to_rows(name, _values_of(report, chosen, j))
            elif unlearned[j]:
                self._keep_unplaced(panel.names[column], _values_of(report, chosen, j))

    def _add_to_rows(self, column: str, values: Iterable[UnplacedValue]) -> None:
        for rank, number, step, time_ns, value, kind in values:
            row = self.queue(rank).row(number, step, time_ns, self.settled_ns)
            row.numbers[column] = value, kind

    def _keep_unplaced(self, metric: str, values: Iterable[UnplacedValue]) -> None:
        room = limits.UNPLACED_VALUES_KEPT_MAX - sum(map(len, self.unplaced.values()))
        self.unplaced.setdefault(metric, []).extend(islice(values, room))

    def _emit_unplaced(self, panel: RootPanel, column: int) -> None:
        """Put the kept values of a metric's sole reporter into its rows; forget those of other ranks."""
        kept = self.unplaced.pop(panel.names[column], None)
        if kept is None:
            return
        own = [one for one in kept if one.rank == panel.owner[column]]
        if own:
            self._add_to_rows(self.naming.shown(panel, column, self), own)

    # ---- awaited ranks ---------------------------------------------------------------------------

    def unawaited(self, panel: RootPanel, slots: int | Integers, columns: Integers) -> Bits:
        """Return which of ``columns`` are learned and do not wait for ``slots`` (one, or of shape (s, 1))."""
        new: Bits = panel.learned[columns] & (panel.member_from[slots, columns] == NEVER)
        return new

    def become_reporter(
        self, index: int, slot: int, report: RankReport, rows: Integers, late: Bits | None
    ) -> None:
        """Make a rank a reporter, from this cell on, of the learned metrics that it now reports first."""
        panel = self.panels[index]
        new = self.unawaited(panel, slot, report.columns)
        joining = report.columns[new]
        panel.note_reporter(slot, joining)
        if report.rank == self.rules.primary_rank:
            self._warn_of_taken_names(panel, joining)
        in_time = rows if late is None else rows[~late[:, new].all(axis=1)]
        serial = int(panel.serial[in_time].min()) if len(in_time) else self.serial
        if self.membership.is_awaited(report.rank):
            panel.join(slot, joining, serial)
        elif report.rank in self.lagging:
            columns = replace(report, columns=joining)
            self.caught_up.setdefault(report.rank, []).append((index, columns, serial))

    def _warn_of_taken_names(self, panel: RootPanel, columns: Integers) -> None:
        """Say once for each rank that it has the plain name of metrics that the primary now reports too."""
        primary = self.rules.primary_rank
        for column in columns[panel.owner[columns] != primary].tolist():
            name, owner = panel.names[column], int(panel.owner[column])
            text = (
                f"rank {owner} alone logged {name!r} at first, so its own values have that name; the primary "
                f"rank's are recorded as {rank_column(name, primary)!r}, also of other such metrics"
            )
            self.books.warn_once(self.notices, ("owner", owner), text)

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
        self.touch(index, self.panels[index].live_rows())

    def touch(self, index: int, rows: Index) -> None:
        """Mark rows of a panel for a look when the tick settles."""
        self.panels[index].touched[rows] = True
        self.touched.add(index)

    def restart_timers(self, now_ns: int) -> None:
        """Start every wait again: the daemon was away until now, and no rank could be in time."""
        for panel in self.panels:
            panel.opened_ns[panel.live_rows()] = now_ns
        for queue in self.queues.values():
            for row in queue.waiting:
                row.last_ns = now_ns
        self.progress.forget_flushes()
        self.next_timeout_ns = 0
        if self.first_hello_ns is not None:
            self.first_hello_ns = now_ns

    def fence(self) -> None:
        """Fence the attempt: the next one has begun, and every later value is late."""
        self.fenced = True

    def forget_marks(self) -> None:
        """Forget which cells have closed: every cell has been emitted, and no further one opens."""
        for panel in self.panels:
            panel.marks = ClosedMarks(panel.width)

    # ---- state -----------------------------------------------------------------------------------

    @property
    def lagging(self) -> set[int]:
        """The ranks for which nothing waits until they have caught up."""
        return self.membership.lagging

    def is_learning(self) -> bool:
        """Return True if a metric's reporters must still be learned, so that flushes matter."""
        return any((panel.first_row != UNLEARNED).any() for panel in self.panels)

    def open_points(self) -> int:
        """Return the number of values in cells that are not emitted."""
        return sum(panel.open_points() for panel in self.panels)


def _values_of(report: RankReport, chosen: Bits, j: int) -> Iterator[UnplacedValue]:
    """Yield the chosen values of the report's column ``j``, apart from their cells."""
    assert report.values is not None, "a summary has no own values"
    for i in np.flatnonzero(chosen[:, j]).tolist():
        kind = Kind.FLOAT if report.kinds is None else int(report.kinds[i, j])
        number, step = max(0, int(report.numbers[i])), report.keys[i][0]
        yield UnplacedValue(
            report.rank, number, step, int(report.times_ns[i]), float(report.values[i, j]), kind
        )
