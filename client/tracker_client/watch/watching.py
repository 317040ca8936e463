"""``watch(model)``: measures a model's gradients and parameters in every n-th backward pass.

The script's own backward passes drive it. Each parameter has a hook that counts the passes which reach the
parameter. In every ``log_freq``-th pass the hook asks the autograd engine for a call at the end of the pass.
At that call the gradients are those that an optimizer would see: accumulated over micro-batches, reduced over
the ranks by DDP or FSDP, and still scaled under a gradient scaler. DDP and FSDP finish in such a call too, so
this call is postponed until after theirs. The gradients are measured on their devices, without a wait, and
the sender gets the results.

Nothing here keeps a model alive, or a gradient beyond the step, and nothing raises into the training.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

from tracker_client.staging.attachment import Attachment
from tracker_client.values.devices.copies import refuse_capture
from tracker_client.values.refusals import Refusals, UnusableValue
from tracker_client.watch.options import ALL, GRADIENTS, LOG_FREQ, PARAMETERS
from tracker_client.watch.record import WatchRecord
from tracker_client.watch.statistics import measure
from tracker_client.watch.targets import Signal, Target, signals_of, targets_of

_POSTPONEMENTS = 3
"""DDP's and FSDP's final calls may each enqueue one more call; after so many rounds all have run."""

Attach = Callable[[Attachment], None]


class Watches:
    """The models that one tracker watches.

    ``attach`` receives each measurement. ``wanted()`` is True if this rank's statistics are recorded.
    """

    def __init__(self, attach: Attach, wanted: Callable[[], bool], refusals: Refusals) -> None:
        self._attach = attach
        self._wanted = wanted
        self._refusals = refusals
        self._lock = threading.RLock()  # re-entrant: a signal handler may finish, which ends all watches
        self._watched: weakref.WeakKeyDictionary[Any, ModelWatch] = weakref.WeakKeyDictionary()

    def watch(
        self,
        models: Any,
        log: str | None = GRADIENTS,
        log_freq: int = LOG_FREQ,
        idx: int | None = None,
        criterion: Any = None,  # noqa: ARG002 - W&B's users pass it; there is no graph to record
        log_graph: Any = None,
    ) -> None:
        """Begin to watch a model, or each of a sequence of models; see :meth:`Tracker.watch`."""
        if log_graph:
            self._refusals.warn_once(
                "watch(log_graph)", "it has no effect: the model's graph is not recorded"
            )
        if log is None or not self._is_usable(log, log_freq):
            return
        kinds = (GRADIENTS, PARAMETERS) if log == ALL else (log,)
        for place, model in enumerate(models if isinstance(models, Sequence) else (models,)):
            self._watch(model, kinds, log_freq, None if idx is None else idx + place)

    def _is_usable(self, log: Any, log_freq: Any) -> bool:
        if log not in (GRADIENTS, PARAMETERS, ALL):
            reason = f"log={log!r} is none of 'gradients', 'parameters', 'all' and None; nothing is watched"
            self._refusals.refuse("watch(log)", reason)
            return False
        if isinstance(log_freq, bool) or not isinstance(log_freq, int) or log_freq < 1:
            reason = f"log_freq={log_freq!r} is not an integer from 1; nothing is watched"
            self._refusals.refuse("watch(log_freq)", reason)
            return False
        return True

    def _watch(self, model: Any, kinds: tuple[str, ...], log_freq: int, idx: int | None) -> None:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(model, torch.nn.Module):
            reason = f"it takes a torch.nn.Module, not a {type(model).__name__}"
            self._refusals.refuse("watch(model)", reason)
            return
        with self._lock:
            earlier = self._watched.pop(model, None)
            if earlier is not None:
                earlier.end()
            number = idx if idx is not None else earlier.number if earlier else self._free_number()
            watch = ModelWatch(number, kinds, log_freq, self._attach, self._wanted, self._refusals)
            self._watched[model] = watch
            watch.begin(model, torch)

    def _free_number(self) -> int:
        taken = {watch.number for watch in self._watched.values()}
        return next(number for number in count() if number not in taken)

    def unwatch(self, models: Any = None) -> None:
        """Stop watching a model, or each of a sequence of models; None means all."""
        with self._lock:
            if models is None:
                models = tuple(self._watched)
            for model in models if isinstance(models, Sequence) else (models,):
                watch = next((watch for one, watch in self._watched.items() if one is model), None)
                if watch is not None:
                    del self._watched[model]
                    watch.end()


class _Passes:
    """The hook of one tensor; in most passes it only counts, so that its cost is small."""

    __slots__ = ("_count", "_every", "_signal", "targets")

    def __init__(self, targets: tuple[int, ...], every: int, signal: Callable[[_Passes], None]) -> None:
        self.targets = targets
        self._every = every
        self._signal = signal
        self._count = 0

    def __call__(self, _: Any) -> None:
        self._count += 1
        if self._count >= self._every:
            self._count = 0
            self._signal(self)


class ModelWatch:
    """One watched model: its hooks, and the targets that are due in the current pass.

    The names of a tracker's second and later models (``number`` from 1) begin with ``model<number>.``.
    """

    def __init__(
        self,
        number: int,
        kinds: tuple[str, ...],
        log_freq: int,
        attach: Attach,
        wanted: Callable[[], bool],
        refusals: Refusals,
    ) -> None:
        self.number = number
        self._kinds = kinds
        self._log_freq = log_freq
        self._attach = attach
        self._wanted = wanted
        self._refusals = refusals
        self._torch: Any = None
        self._targets: list[Target] = []
        self._frozen: tuple[int, ...] = ()
        self._leader: _Passes | None = None
        self._handles: list[Any] = []
        self._lock = threading.Lock()
        self._due: set[int] = set()
        self._pass: object = None

    # ---- hooks -----------------------------------------------------------------------------------

    def begin(self, model: Any, torch: Any) -> None:
        """Add the hooks to the model's parameters."""
        self._torch = torch
        named = targets_of(model, f"model{self.number}." if self.number else "")
        self._targets = [Target(name, weakref.ref(parameter)) for name, parameter in named]
        signals, self._frozen = signals_of(model, [parameter for _, parameter in named])
        for signal in signals:
            self._handles.append(self._hook(signal))
        if not signals:
            self._refusals.warn_once("watch(model)", "it has no parameter that takes a gradient")

    def _hook(self, signal: Signal) -> Any:
        passes = _Passes(signal.targets, self._log_freq, self._signalled)
        tensor = signal.tensor
        # Older versions of torch have only the hook that runs before the accumulation.
        register = getattr(tensor, "register_post_accumulate_grad_hook", tensor.register_hook)
        return register(passes)

    def end(self) -> None:
        """Remove the hooks."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    # ---- a pass that is due ----------------------------------------------------------------------

    def _signalled(self, passes: _Passes) -> None:
        try:
            if not self._wanted():
                return
            with self._lock:
                self._leader = self._leader or passes
                self._due.update(passes.targets)
                if passes is self._leader:
                    self._due.update(self._frozen)  # these have no hook of their own
                earlier, self._pass = self._pass, _current_pass(self._torch)
                is_enqueued = earlier is not None and earlier == self._pass
            if not is_enqueued:
                self._enqueue_record(_POSTPONEMENTS)
        except Exception as error:  # noqa: BLE001 - the outermost frame within the script's backward pass
            self._refuse(error)

    def _enqueue_record(self, postponements: int) -> None:
        then = partial(self._enqueue_record, postponements - 1) if postponements else self._record
        self._torch.autograd.Variable._execution_engine.queue_callback(then)  # noqa: SLF001 - as DDP and FSDP do

    def _record(self) -> None:
        try:
            with self._lock:
                due, self._due, self._pass = sorted(self._due), set(), None
            with self._torch.no_grad():
                self._measure(due)
        except Exception as error:  # noqa: BLE001 - the outermost frame within the script's backward pass
            self._refuse(error)

    def _measure(self, due: list[int]) -> None:
        names, tensors = [], []
        for kind in self._kinds:
            for target in map(self._targets.__getitem__, due):
                parameter = target.parameter()
                tensor = getattr(parameter, "grad", None) if kind == GRADIENTS else parameter
                if tensor is not None:
                    names.append(f"{kind}/{target.name}")
                    tensors.append(tensor)
        # A captured measurement would run again at each replay, and never be read.
        for device_type in {tensor.device.type for tensor in tensors}:
            refuse_capture(device_type, self._torch)
        measured = measure(tensors, self._torch, lambda place, error: self._refuse(error, names[place]))
        if measured:
            self._attach(WatchRecord(names, measured, self._torch))

    def _refuse(self, error: Exception, name: str = "watch()") -> None:
        reason = str(error) if isinstance(error, UnusableValue) else repr(error)
        self._refusals.refuse(name, f"it cannot be measured: {reason}")


def _current_pass(torch: Any) -> object:
    """Return the identity of the current backward pass; None if this version of torch has none."""
    current = getattr(torch._C, "_current_graph_task_id", None)  # noqa: SLF001 - there is no public way
    return None if current is None else current()
