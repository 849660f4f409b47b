"""``intervene``: what a network reads, changed for some layers or some steps of a run.

    with ldmkit.intervene(pipe, words=None, steps=range(0, 10)):
        traj = ldmkit.record(pipe, "a red cat", seed=7)

Words can be taken away or swapped (what every layer, or some, read instead), blended (``amount``),
weighed one by one, and the maps of one picture of a batch given to the others (prompt-to-prompt,
arXiv 2208.01626). Only the half with the words is touched, guidance's other half stays. Weights and
networks are never written to: a network's forward is stood round while the block runs.
"""

from __future__ import annotations

import inspect
import itertools
import operator
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ldmkit.check import did_you_mean, number, short
from ldmkit.loading.families import denoisers_of, family_of, scheduler_of
from ldmkit.recording.call import check_prompt, parameters_of
from ldmkit.recording.hooks import Wrapped
from ldmkit.recording.tokens import Reading, readings
from ldmkit.recording.watching import (
    Run,
    Seen,
    Watcher,
    check_visible,
    layers_of,
    rows_with_words,
    watched,
)
from ldmkit.records.attention import PADDING

__all__ = [
    "Intervention",
    "check_encoders",
    "checked_steps",
    "checked_words",
    "encoded",
    "encodes",
    "intervene",
    "interventions_of",
    "standing",
]

Words = str | Mapping[str, float] | None
Amount = float | Sequence[float] | Callable[[int], float]

_OWN: Any = object()  # the prompt as it is
_active: weakref.WeakKeyDictionary[torch.nn.Module, list[Intervention]] = (
    weakref.WeakKeyDictionary()
)


@contextmanager
def intervene(
    pipe: Any,
    words: Words = _OWN,
    *,
    layers: str | int | Sequence[str | int] | None = None,
    steps: int | Iterable[int] | None = None,
    amount: Amount = 1.0,
    attention: int | None = None,
) -> Iterator[Intervention]:
    """Changes what the network reads while the block runs; everything is put back at its end.

    Every run of the pipeline within the block is changed, in whatever way it is started: bare, by
    ``record``, by a twin of it. A record made here says so in ``call["intervene"]``. What runs in
    another thread beside the block, such as a panel's run, stays as it is.

    Args:
        pipe: the pipeline.
        words: ``None`` (also where left out): no words, as guidance's other half reads
            them. A string: those words instead. A dict: each word's weight, such as
            ``{"red": 0, "hat": 2}``, by which what its tokens hand over is multiplied (arXiv
            2208.01626, section 3.2, "attention re-weighting"); 1 changes nothing.
        layers: names of attention layers, or parts of names (``"up_blocks"``, ``"mid_block"``), or
            their numbers as in ``traj.attention.layers``; by default all. Where words and picture
            attend jointly (SD 3, FLUX) words are read once for all layers: there only a dict can
            be for some of them.
        steps: numbers of the scheduler's steps, from 0; by default all.
        amount: how far towards the other words, 0 to 1, by a straight line between what the
            encoders make of both; one number, one for each step, or a function of the step.
        attention: number of a picture of the batch whose cross-attention maps all the others take
            (prompt-to-prompt's replacement): ``record(pipe, ["a red cat", "a red dog"],
            seed=[7, 7])``. Prompts must have as many tokens. ``words`` stay as they are.

    Yields:
        An object whose ``changed`` counts the calls of the network that were changed.

    Raises:
        TypeError: no pipeline, or a wrong type.
        ValueError: a layer or step that doesn't exist, a word not in the prompt (the nearest is
            told), or a network whose attention can't be heard. What depends on the run is raised
            at its first step.
    """
    parameters_of(pipe, "intervene")
    check_visible(pipe, denoisers_of(pipe), "intervene")
    if attention is not None and words is not _OWN:
        raise ValueError("Give words or attention, not both; one `with` can stand in another.")
    plan = Intervention(pipe, None if words is _OWN else words, steps, amount, attention)
    with standing(plan, layers):
        yield plan


@contextmanager
def standing(plan: Intervention, layers: Any = None) -> Iterator[None]:
    """A plan at work while the block runs, in the thread that made it alone."""
    networks = denoisers_of(plan.pipe)
    plan.choose(networks, layers)
    with ExitStack() as stack:
        stack.callback(plan.let_go)
        for network in networks:
            stack.enter_context(watched(network, plan))
            _active.setdefault(network, []).append(plan)
            stack.callback(_active[network].remove, plan)
        yield


def interventions_of(networks: Iterable[torch.nn.Module]) -> list[dict[str, Any]]:
    """What stands round these networks now in this thread, in words that JSON can hold."""
    found = {id(plan): plan for network in networks for plan in _active.get(network, ())}
    return [plan.told for plan in found.values() if plan.here]


class Intervention(Watcher):
    """A change of what a network reads.

    Attributes:
        changed: calls of the network that were changed so far.
    """

    def __init__(
        self, pipe: Any, words: Words, steps: Any, amount: Amount, attention: int | None
    ) -> None:
        super().__init__(family_of(pipe))
        self.pipe, self.words, self.amount = pipe, checked_words(words), _checked_amount(amount)
        self.steps, self.attention = checked_steps(steps), attention
        if attention is not None and (isinstance(attention, bool) or not _is_whole(attention)):
            raise TypeError(
                f"attention must be the number of a picture of the batch, got {short(attention)}."
            )
        if words_are_read := attention is None and not isinstance(self.words, Mapping):
            check_encoders(pipe)
        if words_are_read and not encodes(pipe):
            raise ValueError(
                f"{type(pipe).__name__} has no encode_prompt, so that other words can't be read; "
                'weigh the prompt\'s own: words={"hat": 0}.'
            )
        self.changed = 0
        self.counted_from = 0  # how whoever asked counts steps
        self.told: dict[str, Any] = {}
        self._chosen: set[str] | None = None
        self._runs: dict[int, _Steps] = {}
        self._encoded: dict[Any, Mapping[str, torch.Tensor]] = {}
        self._rows: range | None = None  # with words, in this call; None: nothing is changed
        self._share = 0.0
        self._other: Mapping[str, torch.Tensor] = {}
        self._calls, self._at = 0, (-1, -1)
        self._said: tuple[Any, list[Reading]] = (None, [])
        self._work: tuple[Any, Mapping[str, Any]] = (None, {})

    def choose(self, networks: Sequence[torch.nn.Module], layers: Any) -> None:
        """Finds the layers by name."""
        names = [name for network in networks for name in _text_layers(network)]
        if layers is not None:
            several = layers if isinstance(layers, (list, tuple, range)) else [layers]
            if not several:
                raise ValueError("layers must name one layer or more, got none; leave it out.")
            self._chosen = {name for one in several for name in _named(one, names)}
            jointly = any(_reads_jointly(network) for network in networks)
            if jointly and not isinstance(self.words, Mapping) and self.attention is None:
                raise ValueError(
                    f"In {type(self.pipe).__name__} words and picture attend jointly, so that "
                    "other words can't be read by some layers alone; leave layers out, or weigh "
                    'words in them: words={"hat": 0}.'
                )
        if self.attention is not None and any(map(_reads_jointly, networks)):
            raise ValueError(
                "attention= gives on maps of cross-attention, and in "
                f"{type(self.pipe).__name__} words and picture attend jointly; weigh words there."
            )
        steps = None if self.steps is None else sorted(self.steps)
        words = dict(self.words) if isinstance(self.words, Mapping) else self.words
        what = {"words": words} if self.attention is None else {"attention": int(self.attention)}
        amount = self.amount if isinstance(self.amount, (float, list)) else "a function"
        chosen = None if self._chosen is None else sorted(self._chosen)
        self.told = what | {"layers": chosen, "steps": steps, "amount": amount}

    def let_go(self) -> None:
        """Takes the counters off the schedulers."""
        for run in self._runs.values():
            run.take_away()
        self._runs.clear()
        self._encoded.clear()

    # --- one call of the network ------------------------------------------------------------------

    def network(self, module: torch.nn.Module, given: dict[str, Any]) -> dict[str, Any]:
        """Decides what this call reads."""
        self._rows = None
        self._work = pipe, call = _at_work(module)
        scheduler = scheduler_of(pipe if pipe is not None else self.pipe)
        if id(scheduler) not in self._runs:
            self._runs[id(scheduler)] = _Steps(scheduler)
        run = self._runs[id(scheduler)]
        step = run.now()
        _check_range(self.steps, self.amount, run.count, self.counted_from)
        self._calls = self._calls + 1 if self._at == (id(run), step) else 0
        self._at = id(run), step
        self._share = self._amount_at(step)
        if self._share == 0.0 or (self.steps is not None and step not in self.steps):
            return given
        if pipe is None:
            raise ValueError(
                "intervene changes the calls of a pipeline, and this network was called by none; "
                "run pipe(...) or ldmkit.record(pipe, ...) within the block."
            )
        super().begin(module, given)
        if not self.batch:
            raise ValueError(
                f"intervene can't tell the pictures that {type(module).__name__} is given from one "
                f"another, so that it changes no run of {type(pipe).__name__}; leave it out."
            )
        self._rows = rows_with_words(self, _pictures(call), self._calls, pipe)
        if self._rows is None:
            return given
        self.changed += 1
        if self.attention is not None:
            self._check_replaced()
        elif not isinstance(self.words, Mapping):
            self._other = self._read(module, given, pipe, call)
            if self._chosen is None:
                return self._told_all(given)
        return given

    def begin(self, module: torch.nn.Module, given: Mapping[str, Any]) -> None:
        """Nothing more: ``network`` has noted it."""
        if self._rows is not None:
            super().begin(module, given)

    def layer(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Gives a chosen layer the other words to read."""
        own = given.get("encoder_hidden_states")
        if self._rows is None or not self._other or own is None or self._chosen is None:
            return given
        if name not in self._chosen or not isinstance(own, torch.Tensor):
            return given
        other = self._other["embeds"]
        if own.shape[1:] != other.shape[1:]:
            raise ValueError(
                f"The words change on their way to {name}, so that other words can't be read by "
                'some layers alone; leave layers out, or weigh words in them: words={"hat": 0}.'
            )
        return given | {"encoder_hidden_states": self._mixed(own, other)}

    def attend(self, seen: Seen, run: Run) -> torch.Tensor:
        """Weighs words, or takes the maps of another picture."""
        chosen = self._chosen is None or seen.layer in self._chosen
        if self._rows is None or not chosen:
            return run()
        if self.attention is not None:
            return self._replaced(seen, run)
        return self._weighed(seen, run) if isinstance(self.words, Mapping) else run()

    # --- other words ------------------------------------------------------------------------------

    def _read(
        self, module: torch.nn.Module, given: Mapping[str, Any], pipe: Any, call: Mapping[str, Any]
    ) -> Mapping[str, torch.Tensor]:
        """What the pipeline's encoders make of the other words, once for a run's settings."""
        own = given.get("encoder_hidden_states")
        longest = call.get("max_sequence_length")
        key = (id(pipe), longest, call.get("clip_skip"))
        if key not in self._encoded:
            self._encoded[key] = encoded(pipe, self.words, call)  # type: ignore[arg-type]
        other = self._encoded[key]
        if not isinstance(own, torch.Tensor) or own.shape[1:] != other["embeds"].shape[1:]:
            raise ValueError(
                f"{type(pipe).__name__} reads {short(self.words or 'no words')} as "
                f"{tuple(other['embeds'].shape[1:])} numbers where its prompt has "
                f"{tuple(getattr(own, 'shape', ()))[1:]}, so they can't be swapped in mid-run; "
                "take words of as many tokens, or weigh words."
            )
        return {name: part.to(own.device) for name, part in other.items()}

    def _told_all(self, given: dict[str, Any]) -> dict[str, Any]:
        """The network's arguments with the other words: embeddings, pooled ones, masks."""
        if twice := [name for name in _SECOND_TEXTS if given.get(name) is not None]:
            raise ValueError(
                f"{type(self.pipe).__name__} reads its words a second time ({twice[0]}), so that "
                "other words can't be swapped in; weigh the prompt's own: words={\"hat\": 0}."
            )
        given = dict(given)
        for name, part in (
            ("encoder_hidden_states", "embeds"),
            ("pooled_projections", "pooled"),
            ("encoder_attention_mask", "mask"),
            ("encoder_hidden_states_mask", "mask"),
        ):
            own = given.get(name)
            if isinstance(own, torch.Tensor) and part in self._other:
                given[name] = self._mixed(own, self._other[part])
        added = given.get("added_cond_kwargs")
        if isinstance(added, Mapping) and "text_embeds" in added and "pooled" in self._other:
            pooled = self._mixed(added["text_embeds"], self._other["pooled"])
            given["added_cond_kwargs"] = {**added, "text_embeds": pooled}
        return given

    def _mixed(self, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if self._rows is None or own.shape[1:] != other.shape[1:]:
            return own
        changed = own.clone()
        rows = slice(self._rows.start, self._rows.stop)
        if not own.is_floating_point():  # a mask: what either reads is read
            changed[rows] = torch.maximum(own[rows], other.to(own.dtype))
        elif self._share == 1.0:
            changed[rows] = other.to(own.dtype)
        else:
            changed[rows] = torch.lerp(own[rows], other.to(own.dtype), self._share)
        return changed

    # --- words weighed, maps replaced -------------------------------------------------------------

    def _weighed(self, seen: Seen, run: Run) -> torch.Tensor:
        """A word's column of A times its weight, which is the same as its value times it."""
        every = self._readings(seen.text.stop - seen.text.start)
        if not every:
            raise ValueError(
                "intervene weighs words of the prompt, and this run was given embeddings; give "
                "prompt=, or words to read instead of them."
            )
        each = len(self._rows or ()) // len(every)
        value, weights = seen.value.clone(), self.words or {}
        for i, row in enumerate(self._rows or ()):
            for word, weight in weights.items():  # type: ignore[union-attr]
                factor = 1 + self._share * (weight - 1)
                reading = every[i // each]
                rows = reading.rows_of(word, "intervene weighs")
                columns = [seen.text.start + c for r in rows for c in reading.columns[r]]
                value[row, :, columns] *= factor
        queries = seen.query.shape[2]
        if seen.picture == slice(0, queries):
            return run(value=value)
        # The words among themselves read as before. By the operator itself: whoever keeps maps
        # hears the picture's part alone.
        output = torch.ops.aten.scaled_dot_product_attention(
            seen.query, seen.key, seen.value, **seen.options
        )
        mask = seen.options.get("attn_mask")
        if mask is not None and mask.ndim > 1 and mask.shape[-2] == queries:
            mask = mask[..., seen.picture, :]
        part = run(query=seen.query[:, :, seen.picture], value=value, attn_mask=mask)
        return torch.cat(
            [output[:, :, : seen.picture.start], part, output[:, :, seen.picture.stop :]], dim=2
        )

    def _replaced(self, seen: Seen, run: Run) -> torch.Tensor:
        """The others look where one picture looks, at words of their own: A of one, V of each."""
        rows = self._rows or range(0)
        source = rows[int(self.attention or 0)]
        query, key = seen.query.clone(), seen.key.clone()
        for row in rows:
            query[row] = torch.lerp(seen.query[row], seen.query[source], self._share)
            key[row] = torch.lerp(seen.key[row], seen.key[source], self._share)
        return run(query=query, key=key)

    def _check_replaced(self) -> None:
        pictures = len(self._rows or ())
        if not -pictures <= int(self.attention or 0) < pictures or pictures < 2:
            raise ValueError(
                f"attention must be the number of one of at least two pictures, got "
                f"{self.attention} for a batch of {pictures}; give a list of prompts."
            )
        lengths = {
            sum(token != PADDING for token in one.tokens) for one in self._readings(self.length)
        }
        if len(lengths) > 1:
            raise ValueError(
                "Maps can be given on between prompts of as many tokens, got "
                f"{' and '.join(map(str, sorted(lengths)))}; change words one for one."
            )

    def _readings(self, length: int) -> list[Reading]:
        """How the prompts of this call stand among so many keys, read once for all layers."""
        pipe, call = self._work
        words = (id(pipe), length, str(call.get("prompt")), str(call.get("prompt_2")))
        if self._said[0] != words:
            self._said = words, readings(pipe, self.family, call, length)
        return self._said[1]

    def _amount_at(self, step: int) -> float:
        if callable(self.amount):
            return number("amount", self.amount(step), 0, 1)
        return (
            self.amount[min(step, len(self.amount) - 1)]
            if isinstance(self.amount, list)
            else self.amount
        )


# --- which step ----------------------------------------------------------------------------------


class _Steps:
    """Counts the steps of a scheduler, from 0 in each run."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.done, self.began = scheduler, 0, None
        self._wrapped = Wrapped(scheduler, "step", scheduler.step, self._around)
        self._earlier = vars(scheduler).get("step")
        scheduler.step = self._wrapped

    def _around(self, owner: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        self.done += owner is self.scheduler
        return result

    def now(self) -> int:
        """The number of the step that is under way."""
        listed = getattr(self.scheduler, "timesteps", None)
        if listed is not self.began:  # set_timesteps began another run
            self.began, self.done = listed, 0
        return self.done

    @property
    def count(self) -> int:
        """Steps of this run; 0 where the scheduler doesn't say."""
        return 0 if self.began is None else len(self.began)

    def take_away(self) -> None:
        """Gives the scheduler its own step back."""
        if vars(self.scheduler).get("step") is self._wrapped:
            self._wrapped.take_away(self._earlier)


def _at_work(network: torch.nn.Module) -> tuple[Any, Mapping[str, Any]]:
    """The pipeline that calls this network, and the names of its call; (None, {}) where none is."""
    frame = sys._getframe(1)
    while frame is not None:
        one = frame.f_locals.get("self") if frame.f_code.co_name == "__call__" else None
        parts = getattr(one, "components", None) if one is not None else None
        if isinstance(parts, Mapping) and any(part is network for part in parts.values()):
            return one, dict(frame.f_locals)
        frame = frame.f_back  # type: ignore[assignment]
    return None, {}


def _pictures(call: Mapping[str, Any]) -> int:
    prompts, embeds = call.get("prompt"), call.get("prompt_embeds")
    each = call.get("num_images_per_prompt") or 1
    if isinstance(prompts, (list, tuple)):
        return len(prompts) * int(each)
    if prompts is None and isinstance(embeds, torch.Tensor):
        return int(call.get("batch_size") or len(embeds)) * int(each)
    return int(each)


# --- other words ---------------------------------------------------------------------------------


# Beside encoder_hidden_states: HunyuanDiT's T5, Bria FIBO's layers, HunyuanImage's letters.
_SECOND_TEXTS = ("encoder_hidden_states_t5", "text_encoder_layers", "encoder_hidden_states_2")


def encodes(pipe: Any) -> bool:
    """Whether a pipeline can be asked to read words."""
    return callable(getattr(pipe, "encode_prompt", None))


def check_encoders(pipe: Any) -> None:
    """Refuses a pipeline that was loaded without a text encoder.

    SD 3's third, T5, may be missing, and so may one with its tokenizer, as SDXL's refiner has it,
    while another one reads.

    Raises:
        ValueError: which one.
    """
    parts = getattr(pipe, "components", {})
    names = [name for name in ("text_encoder", "text_encoder_2") if name in parts]
    blind = all(parts[name] is None for name in names)
    for name in names:
        reader = parts.get(name.replace("text_encoder", "tokenizer"))
        if parts[name] is None and (blind or reader is not None):
            raise ValueError(
                f"Words must be read by the pipeline's own encoders, and this "
                f"{type(pipe).__name__} was loaded without its {name}; load it whole."
            )


def encoded(
    pipe: Any, words: str | list[str] | None, call: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Embeds (b, tokens, d), pooled (b, d) and mask (b, tokens), as far as the family has them.

    No words (``None``) are what guidance reads in their place.
    """
    check_encoders(pipe)
    encode = pipe.encode_prompt
    known = inspect.signature(encode).parameters
    given: dict[str, Any] = {
        name: None
        for name, one in known.items()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    }
    given |= {
        "prompt": "" if words is None else words,
        "device": getattr(pipe, "_execution_device", None),
    }
    given |= {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    given |= {k: call[k] for k in ("max_sequence_length", "clip_skip") if call.get(k) is not None}
    with torch.no_grad():
        found = encode(**{name: value for name, value in given.items() if name in known})
    parts = [found] if isinstance(found, torch.Tensor) else list(found)
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    embeds = next(part for part in tensors if part.ndim == 3)
    told = {"embeds": embeds}
    for part in tensors:
        if part.ndim == 2 and len(part) == len(embeds):
            told.setdefault("pooled" if part.is_floating_point() else "mask", part)
    if words is None and getattr(pipe, "config", {}).get("force_zeros_for_empty_prompt"):
        for name in {"embeds", "pooled"} & told.keys():  # as SDXL writes "no words"
            told[name] = torch.zeros_like(told[name])
    return told


# --- what is asked -------------------------------------------------------------------------------


def _text_layers(network: torch.nn.Module) -> list[str]:
    """The layers that read words, in the order of a step."""
    layers = layers_of(network)
    crossed = {
        name
        for name, layer in layers.items()
        if getattr(layer, "is_cross_attention", False)
        or getattr(layer, "added_kv_proj_dim", None) is not None
        or not hasattr(layer, "is_cross_attention")
    }
    order = ("down_blocks", "mid_block", "up_blocks")

    def place(name: str) -> int:
        return next((i for i, start in enumerate(order) if name.startswith(start)), 0)

    return sorted(crossed or layers, key=place)  # stable: within a part as they are built


def _reads_jointly(network: torch.nn.Module) -> bool:
    return any(
        getattr(layer, "added_kv_proj_dim", None) is not None
        and getattr(layer, "added_proj_bias", None) is not None
        and hasattr(network, "transformer_blocks")
        for layer in layers_of(network).values()
    )


def _named(one: Any, names: Sequence[str]) -> list[str]:
    if _is_whole(one):
        at = operator.index(one)
        if not 0 <= at < len(names):
            raise ValueError(
                f"layers takes numbers from 0 to {len(names) - 1}, as in traj.attention.layers, "
                f"got {short(one)}."
            )
        return [names[at]]
    if not isinstance(one, str) or not one:
        raise TypeError(f'layers must be names like "up_blocks", or numbers, got {short(one)}.')
    found = [name for name in names if one in name]
    if not found:
        parts = {".".join(name.split(".")[:k]) for name in names for k in range(1, 9)} | set(names)
        advice = did_you_mean(one, sorted(parts), f"there are {', '.join(names)[:300]}.", 0.3)
        raise ValueError(f"There is no layer {short(one)} that reads words; {advice}")
    return found


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def checked_words(words: Any) -> Words:
    """``words`` as ``intervene`` keeps them."""
    if isinstance(words, Mapping):
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise TypeError(
                f'words must map words to weights, like {{"hat": 0}}, got {short(words)}.'
            )
        return {
            word: number(f"The weight of {short(word)}", weight, -100, 100)
            for word, weight in words.items()
        }
    if words is not None and not isinstance(words, str):
        raise TypeError(
            'words must be a string, a dict of weights like {"hat": 0}, or None for no words, got '
            f"{short(words)}."
        )
    check_prompt("words", words)
    return words


def _checked_amount(amount: Any) -> Any:
    if callable(amount):
        return amount
    if isinstance(amount, (list, tuple)) or hasattr(amount, "__array__"):
        found = [number("Each amount", float(one), 0, 1) for one in amount]
        if not found:
            raise ValueError("amount must hold one number for each step, got none.")
        return found
    return number("amount", amount, 0, 1, like="0.5")


_MOST_STEPS = 10_000  # no scheduler has as many


def checked_steps(steps: Any) -> frozenset[int] | None:
    """``steps`` as ``intervene`` keeps them."""
    if steps is None:
        return None
    several = [steps] if _is_whole(steps) else steps
    try:
        found = [operator.index(one) for one in itertools.islice(several, _MOST_STEPS + 1)]
    except TypeError:
        raise TypeError(
            f"steps must be whole numbers like range(0, 10), got {short(steps)}."
        ) from None
    if len(found) > _MOST_STEPS:
        raise ValueError(f"steps must be {_MOST_STEPS} at most, got {short(steps)}; name fewer.")
    if any(step < 0 for step in found):
        raise ValueError(f"steps are counted from 0, got {min(found)}.")
    return frozenset(found)


def _check_range(steps: frozenset[int] | None, amount: Any, count: int, first: int) -> None:
    if steps and count and max(steps) >= count:
        raise ValueError(
            f"steps must be {count - 1 + first} at most, the last step of this run, got "
            f"{max(steps) + first}; they are counted from {first}."
        )
    if isinstance(amount, list) and count and len(amount) != count:
        raise ValueError(
            f"amount must hold {count} numbers, one for each step of this run, got {len(amount)}."
        )
