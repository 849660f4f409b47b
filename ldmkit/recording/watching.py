"""A network's attention, heard as it happens: which layer looks, with which words.

``watched`` stands in a network's forward and round every ``scaled_dot_product_attention`` in it
(a ``TorchFunctionMode``): no attention processor is replaced, so a picture stays the same to the
bit. Who looks at what is told from lengths:

    cross-attention     keys are the words                  U-Nets, PixArt, Sana
    with added keys     keys are the words, then the picture          Karlo, DeepFloyd IF
    joint attention     keys and queries are words and picture; FLUX puts the words first, SD 3 last

Maps are made of it in attention.py, and what is read is changed in intervene.py.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ldmkit.loading.families import Family, answers_of

__all__ = [
    "Run",
    "Seen",
    "Watcher",
    "check_visible",
    "is_visible",
    "layers_of",
    "rows_with_words",
    "watched",
]

Run = Callable[..., torch.Tensor]


class Seen(NamedTuple):
    """One attention of the picture to the words, as it is about to run.

    Attributes:
        layer: name of the module.
        query: (batch, heads, queries, d).
        key: (batch, heads, keys, d).
        value: (batch, heads, keys, d).
        options: further keywords of ``scaled_dot_product_attention``.
        text: which of the keys are words.
        picture: which of the queries are places of the picture.
    """

    layer: str
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    options: dict[str, Any]
    text: slice
    picture: slice


class Watcher:
    """What ``watched`` asks; each method may be left as it is.

    Attributes:
        family: says where the words stand among the keys.
        length: tokens of text in this call of the network.
        places: of the picture, in this call.
        batch: pictures, guidance's second halves among them.
        thread: whose calls of the network are heard.
    """

    def __init__(self, family: Family) -> None:
        self.family, self.thread = family, threading.get_ident()
        self.length = self.places = self.batch = 0
        self._layer: tuple[str, int | None] | None = None

    def network(self, module: torch.nn.Module, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the network's forward by name; those that come back are taken."""
        return given

    def layer(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """The keywords of an attention module, the same way."""
        return given

    def attend(self, seen: Seen, run: Run) -> torch.Tensor:
        """The attention's output; ``run(query=...)`` computes it, with other parts if wanted."""
        return run()

    def hooks(self, module: torch.nn.Module) -> Iterable[Any]:
        """Handles of further hooks in the network, which ``watched`` takes away."""
        return ()

    @property
    def here(self) -> bool:
        """Whether this thread's calls are heard."""
        return self.thread == threading.get_ident()

    def begin(self, module: torch.nn.Module, given: Mapping[str, Any]) -> None:
        """Notes how many tokens and places a call of the network has."""
        words, sample = given.get("encoder_hidden_states"), _sample(given)
        self.length = words.shape[1] if isinstance(words, torch.Tensor) and words.ndim == 3 else 0
        self.batch = 0 if sample is None else len(sample)
        self.places = _places(module, sample)

    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Seen | None:
        """This attention, if the picture looks at the words in it."""
        if self._layer is None or not self.length:
            return None
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        given = dict(zip(names, args, strict=False)) | kwargs
        query, key, value = (given.pop(name) for name in names[:3])
        name, own = self._layer
        ends = self._ends(query.shape[-2], key.shape[-2], own)
        return ends and Seen(name, query, key, value, given, *ends)

    def _ends(self, queries: int, keys: int, own: int | None) -> tuple[slice, slice] | None:
        """(which keys are words, which queries are picture), or ``None``."""
        extra = sum(part for part in self.family.text_tokens if isinstance(part, int))
        apart = self.family.tokens == "apart"  # else it is the words among themselves
        if own is not None and own == keys and own in (self.length, self.length + extra) and apart:
            return slice(0, keys), slice(0, queries)
        apart = self.family.tokens == "apart"  # else the picture may ask alone, see intervene
        if apart and own is not None and keys == own + queries and keys != queries:
            return slice(0, own), slice(0, queries)
        text = keys - self.places
        if text not in (self.length, self.length + extra) or queries not in (keys, self.places):
            return None
        if self.family.tokens == "image_first":
            return slice(self.places, keys), slice(0, self.places)
        return slice(0, text), slice(queries - self.places, queries)


def _sample(given: Mapping[str, Any]) -> torch.Tensor | None:
    found = next((given[name] for name in ("sample", "hidden_states") if name in given), None)
    return found if isinstance(found, torch.Tensor) else None


def _places(module: torch.nn.Module, sample: torch.Tensor | None) -> int:
    """Tokens of the picture where a transformer reads it; 0 where nothing tells."""
    if sample is None:
        return 0
    if sample.ndim == 3:
        return sample.shape[1]
    patch = getattr(getattr(module, "config", None), "patch_size", 1) or 1
    return math.prod(sample.shape[2:]) // (patch**2 if isinstance(patch, int) else 1)


def layers_of(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The attention modules of a network by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if name and (hasattr(module, "processor") or "Attention" in type(module).__name__)
        if any(True for _ in module.parameters(recurse=False)) or len(list(module.children()))
    }


@contextmanager
def watched(network: torch.nn.Module, watcher: Watcher) -> Iterator[None]:
    """Lets a watcher hear the attention of a network while the block runs, in the watcher's thread.

    Others may watch it meanwhile, and whoever came first may go first.
    """
    with _guard:
        if network not in _standing:
            _standing[network] = _Standing(network)
        standing = _standing[network]
        standing.watchers = (*standing.watchers, watcher)
    hooks = list(watcher.hooks(network))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
        with _guard:
            standing.watchers = tuple(one for one in standing.watchers if one is not watcher)
            if not standing.watchers:
                del _standing[network]
                standing.go()


class _Standing:
    """What stands in a network's forward and round its layers, for all who watch it.

    Attributes:
        watchers: in the order in which they came.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.watchers: tuple[Watcher, ...] = ()
        self._leaving = ExitStack()
        forward, earlier = network.forward, vars(network).get("forward")
        signature = inspect.signature(forward)

        @functools.wraps(forward)  # pipelines and others read its signature
        def heard(*args: Any, **kwargs: Any) -> Any:
            mine = self._of_this_thread()
            if not mine:
                return forward(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            given = _flat(signature, bound.arguments)
            with ExitStack() as stack:
                for watcher in reversed(mine):  # who came last is asked first
                    given = watcher.network(network, given)
                    watcher.begin(network, given)
                    stack.callback(setattr, watcher, "_layer", None)
                    stack.enter_context(_Mode(watcher))
                return forward(**given)

        for name, module in layers_of(network).items():
            enter = functools.partial(self._enter, name)
            self._leaving.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            self._leaving.callback(module.register_forward_hook(self._leave).remove)
        self._leaving.callback(_put_back, network, earlier)
        network.forward = heard

    def go(self) -> None:
        """Leaves everything as it was."""
        self._leaving.close()

    def _of_this_thread(self) -> list[Watcher]:
        return [watcher for watcher in self.watchers if watcher.here]

    def _enter(
        self, name: str, module: Any, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        for watcher in self._of_this_thread():
            kwargs = watcher.layer(name, kwargs)
            words = kwargs.get("encoder_hidden_states")
            words = words[0] if isinstance(words, tuple) else words  # an IP-Adapter's beside it
            watcher._layer = name, None if words is None else words.shape[1]
        return args, kwargs

    def _leave(self, module: Any, args: Any, output: Any) -> None:
        for watcher in self._of_this_thread():
            watcher._layer = None


_standing: weakref.WeakKeyDictionary[torch.nn.Module, _Standing] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def _flat(signature: inspect.Signature, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name; those of ``**kwargs`` beside the others."""
    kinds = {name: one.kind for name, one in signature.parameters.items()}
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        flat |= value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value}
    return flat


def _put_back(network: torch.nn.Module, earlier: Any) -> None:
    if earlier is None:
        vars(network).pop("forward", None)
    else:
        network.forward = earlier


class _Mode(TorchFunctionMode):
    """Sees every ``scaled_dot_product_attention`` of this thread."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            seen = self.watcher.seen(args, kwargs)
            if seen is not None:
                return self.watcher.attend(seen, _running(func, seen))
        return func(*args, **kwargs)


def _running(func: Any, seen: Seen) -> Run:
    def run(**other: Any) -> torch.Tensor:
        parts = {"query": seen.query, "key": seen.key, "value": seen.value} | other
        found: torch.Tensor = func(
            parts.pop("query"), parts.pop("key"), parts.pop("value"), **{**seen.options, **parts}
        )
        return found

    return run


def rows_with_words(watcher: Watcher, pictures: int, call: int, pipe: Any) -> range | None:
    """Which rows of the network's batch read the prompt; ``None`` where nothing tells.

    Args:
        watcher: in a call of the network.
        pictures: that are made side by side.
        call: how many calls of this step came before. Of two the first has the words.
        pipe: the pipeline; its family tells the order of several in one batch.
    """
    parts, rest = divmod(watcher.batch, pictures)
    if rest:
        return None
    if parts == 1:
        return range(pictures) if call == 0 else None
    order = next((one for one in answers_of(pipe, {}) if len(one) == parts), ())
    if "text" not in order:
        return None
    first = order.index("text") * pictures
    return range(first, first + pictures)


# --- what is refused -----------------------------------------------------------------------------


def is_visible(pipe: Any, networks: Sequence[torch.nn.Module]) -> bool:
    """Whether ``check_visible`` lets a pipeline pass."""
    try:
        check_visible(pipe, networks, "")
    except ValueError:
        return False
    return True


def check_visible(pipe: Any, networks: Sequence[torch.nn.Module], what: str) -> None:
    """Refuses a network whose attention can't be heard or has no words.

    Raises:
        ValueError: the reason, and what to do.
    """
    if not networks:
        raise ValueError(
            f"{what} needs a network that predicts noise; {type(pipe).__name__} has "
            "none that ldmkit knows."
        )
    for network in networks:
        if _compiled(network):
            raise ValueError(
                f"{what} can't hear a compiled {type(network).__name__}: what torch.compile made "
                "passes no module; use the pipeline as it was before."
            )
        _check_words(network, what)
        for name, layer in layers_of(network).items():
            processor = getattr(layer, "processor", None)
            kind = type(processor).__name__
            backend = getattr(processor, "_attention_backend", None) or _backend()
            if str(getattr(backend, "value", backend)).startswith(("native", "None")):
                if not _hides(kind):
                    continue
                what_hides, mend = kind, "pipe.disable_attention_slicing(), or " + _DEFAULT
            else:
                what_hides, mend = f"the back end {backend}", 'set_attention_backend("native")'
            raise ValueError(
                f"{what} can't hear the attention of {name}: {what_hides} computes it out of "
                f"sight; {mend}."
            )


_DEFAULT = "set_attn_processor(AttnProcessor2_0()) on the network"


def _hides(kind: str) -> bool:
    """Processors that never call ``scaled_dot_product_attention``."""
    plain = ("AttnProcessor", "AttnAddedKVProcessor", "CustomDiffusionAttnProcessor")
    return kind.startswith(("Sliced", "XFormers", "XLA")) or kind in plain or "XFormers" in kind


def _backend() -> Any:
    from diffusers.models import attention_dispatch

    registry = getattr(attention_dispatch, "_AttentionBackendRegistry", None)
    return getattr(registry, "_active_backend", None)


def _compiled(network: torch.nn.Module) -> bool:
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in network.modules()
    )


def _check_words(network: torch.nn.Module, what: str) -> None:
    config = getattr(network, "config", {})
    kind = config.get("encoder_hid_dim_type") if hasattr(config, "get") else None
    if kind == "image_proj":
        raise ValueError(
            f"{what} needs words, and this {type(network).__name__} reads one embedding of a "
            "picture (the prior reads the words): there is nothing per word in it."
        )
    names = inspect.signature(network.forward).parameters
    if "encoder_hidden_states" not in names:
        raise ValueError(
            f"{what} needs words, and this {type(network).__name__} takes no "
            "encoder_hidden_states: it reads none in its attention, or ldmkit doesn't know how."
        )
