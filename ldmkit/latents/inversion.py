"""``invert``: the noise from which DDIM would have made a picture, for every pipeline.

DDIM without noise of its own (eta = 0) is one map from noise to picture. Each of its steps is

    x_s = alpha_s · x0 + sigma_s · ε,    x0 = (x_t − sigma_t · ε) / alpha_t,    ε = ε(x_t, t)

from level t to the lower s (arXiv 2010.02502, eq. 12). Backwards the same line is read from left to
right, but ε would have to be asked at x_t, which is what is sought. Plain inversion asks about
x_s instead (arXiv 2105.05233, appendix F) and is a little wrong at every step; a fixed-point
iteration asks about its own last guess of x_t until the guess stands still (arXiv 2309.04907,
2312.12540). A network that predicts v is told t, so its v is made ε with the alpha of t:
diffusers' ``DDIMInverseScheduler`` takes that of s, which costs several decibels. An unCLIP's
decoder is told the picture's own embedding too.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from ldmkit.check import say, short, whole
from ldmkit.latents.codec import encode_image, listed
from ldmkit.loading.families import denoiser_of, scheduler_of
from ldmkit.loading.siblings import twin_of
from ldmkit.recording import call as checks
from ldmkit.recording.hooks import exclusive
from ldmkit.recording.noise_law import prediction_of
from ldmkit.recording.truncation import Heard, heard
from ldmkit.records import Embedding
from ldmkit.records.noise_law import both_of, clean_of
from ldmkit.space.clip import clip_space
from ldmkit.space.encoders import embeddings_of, space_name, stacked
from ldmkit.space.unclip import Unclip, unclip_of

__all__ = ["MOST_ROUNDS", "check_inversion", "invert", "own_noise"]

_SCHEDULERS = ("DDIMScheduler", "DDIMParallelScheduler")
MOST_ROUNDS = 20
_UNSETTLED = 0.05  # of the latents' own size: more in the last round is no fixed point
# What this call decides itself, and what would make a step something that can't be undone.
_OWN = (
    "latents",
    "output_type",
    "return_dict",
    "eta",
    "guidance_scale",
    "num_images_per_prompt",
    "timesteps",
    "sigmas",
)


def invert(
    pipe: Any,
    picture: Any,
    prompt: str | Sequence[str] = "",
    *,
    embedding: Embedding | Sequence[Embedding] | None = None,
    num_inference_steps: int = 64,
    fixed_point: int = 3,
    seed: int = 0,
    **call: Any,
) -> torch.Tensor:
    """Finds the first noise of a picture by DDIM inversion: ``latents=`` for the same steps.

    Run the pipeline with ``latents=``, the same words (or embedding) and ``num_inference_steps``
    and with ``guidance_scale=1.0``, and the picture comes back about as well as the autoencoder
    alone brings it back. With guidance, or other words, it becomes another picture that keeps
    much of the first one's layout. Formulas: ``ldmkit.latents.inversion``.

    Args:
        pipe: a pipeline with a U-Net and an autoencoder, its scheduler DDIM.
        picture: a PIL picture, a path or an array as in ``encode_image``, or several of one size.
        prompt: the words that describe it, one for all or one for each; ``""`` for none.
        embedding: what an unCLIP's decoder is told of the picture, one for all or one for each;
            by default what CLIP sees in it.
        num_inference_steps: DDIM steps, each undone in turn.
        fixed_point: rounds of the fixed-point iteration at each step, each a call of the network;
            0 for plain DDIM inversion, which costs as much as 1. Of 250 drawings,
            inverted in 64 steps by the embedded model, 13 came back more than 2 dB worse with 2
            rounds, 1 with 3.
        seed: of what else the pipeline draws: give ``decode_embedding`` the same.
        **call: the pipeline's own keywords that say what the network is told.

    Returns:
        (b, c, h, w) latents of about unit variance, on the pipeline's device.

    Raises:
        TypeError: a pipeline without what is needed, or an unknown keyword.
        ValueError: a schedule that can't be walked backwards, or a value out of its range.
    """
    family = unclip_of(pipe)
    if family is None and embedding is not None:
        raise TypeError(
            f"{type(pipe).__name__} hears no embedding, only words; leave embedding= out."
        )
    if family is not None and embedding is None and family.takes in call:
        family = None  # told by the decoder's own keyword, it is a pipeline like any other
    decoder = pipe if family is None else family.decoder()
    level = 0 if family is None else call.pop("noise_level", 0)
    check_inversion(decoder, num_inference_steps, fixed_point, call)
    if prompt is None:
        raise TypeError('prompt must be a string or a list of strings, got None; "" is no words.')
    checks.check_prompt("prompt", prompt)
    seed = whole("seed", seed, 0, 2**63 - 1)
    checks.check_seed(seed, call.get("generator"), takes_generator=True)
    if family is not None:
        picture = listed(picture)
        call = _embedded(family, picture, prompt, embedding, level, seed) | call
        prompt = call.pop("prompt", prompt)
    parameters = checks.parameters_of(decoder, "invert")
    pipe = twin_of(decoder)  # a scheduler that walks backwards is no one else's meanwhile
    scheduler = _walkable(pipe, parameters)
    with exclusive(scheduler, denoiser_of(pipe)):
        start = encode_image(pipe, picture)
        steps = _Steps(scheduler, num_inference_steps, fixed_point)
        told = {
            "prompt": _each(prompt, len(start)),
            "num_inference_steps": num_inference_steps,
            "latents": start,
            "guidance_scale": 1.0,  # guidance's two answers have no one step that undoes them
            "output_type": "latent",
            "generator": torch.Generator("cpu").manual_seed(seed),
            **_size(pipe, start, parameters),
        }
        told = {name: value for name, value in told.items() if name in parameters} | call
        with _backwards(scheduler, steps), heard(Heard(pipe, told)), torch.no_grad():
            pipe(**told)
    return _checked(steps)


def _embedded(
    family: Unclip, pictures: list[Any], prompt: Any, embedding: Any, level: Any, seed: int
) -> dict[str, Any]:
    """What an unCLIP's decoder is told of pictures: their embeddings, and the words it reads."""
    if not isinstance(prompt, str) or (prompt and not family.takes_prompt):
        raise TypeError(
            f"The decoder of {type(family.pipe).__name__} takes "
            f"{'one text' if family.takes_prompt else 'no words'}, got prompt={short(prompt)}."
        )
    level = whole("noise_level", level, 0, family.most_noise())
    if embedding is None:
        embedding = clip_space(family.pipe).encode_image(pictures)
    given = embeddings_of(embedding, family.width(), space_name(family.pipe))
    given = given * len(pictures) if len(given) == 1 else given
    if len(given) != len(pictures):
        raise ValueError(
            f"embedding must be one or one for each picture, got {len(given)} embeddings and "
            f"{len(pictures)} pictures."
        )
    generator = torch.Generator("cpu").manual_seed(seed) if level else None
    vectors = family.noised(torch.tensor(stacked(given)), level, generator)
    return family.arguments(vectors, level, prompt)


def own_noise(
    family: Unclip,
    picture: Image.Image,
    embedding: Embedding,
    call: dict[str, Any],
    *,
    seed: int,
    fixed_point: int = 3,
) -> torch.Tensor:
    """The noise (1, c, h, w) of which a decoder makes a picture under its embedding.

    Args:
        family: of the pipeline.
        picture: at the decoder's size.
        embedding: of the picture.
        call: the decoder's keywords; guidance 1 and the steps are noted in it.
        seed: of the noise that the decoder adds to embeddings.
        fixed_point: rounds of the inversion.
    """
    call.setdefault("guidance_scale", 1.0)  # of two answers no step could be undone
    call.setdefault("num_inference_steps", family.steps())
    told = {name: call[name] for name in ("num_inference_steps", "noise_level") if name in call}
    own: dict[str, Any] = {"embedding": embedding, "seed": seed, "fixed_point": fixed_point}
    return invert(family.pipe, picture, call.get("prompt", ""), **told, **own)


class _Steps:
    """A DDIM schedule walked from the picture to the noise, one call of ``step`` at a time.

    Attributes:
        timesteps: what the network is told at each call, in order.
        latents: (b, c, h, w) float32, as far up as is known for sure.
        change: what the last round changed, over the latents' own size; the largest of all steps.
    """

    def __init__(self, scheduler: Any, count: int, rounds: int) -> None:
        self.scheduler, self.rounds = scheduler, rounds
        self.latents: torch.Tensor | None = None
        self.change = 0.0
        self._calls = 0
        scheduler = copy.copy(scheduler)  # the pipeline's own stays on the grid that it has
        scheduler.set_timesteps(count)
        # Each step of the sampler goes from level t down to t − drop; below 0 there is no noise.
        drop = scheduler.config.num_train_timesteps // count
        highs = [int(t) for t in reversed(scheduler.timesteps.tolist())]
        self._pairs = [(t - drop, t) for t in highs]
        self.timesteps = [high for _, high in self._pairs for _ in range(max(1, rounds))]

    @property
    def done(self) -> bool:
        """Whether the last level was reached."""
        return self._calls == len(self.timesteps)

    def step(self, output: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Takes the network's answer about ``asked`` and returns what to ask next."""
        number, round_ = divmod(self._calls, max(1, self.rounds))
        guess = asked.float()
        level = self._level(self.timesteps[self._calls])  # that the network was told
        _, noise = both_of(guess, output.float(), *level, prediction_of(self.scheduler))
        start = guess if self.latents is None else self.latents
        found = self._up(start, noise, *self._pairs[number])
        self._calls += 1
        if round_ + 1 < self.rounds:
            self.latents = start
            return found.to(asked.dtype)
        self.latents = found
        if not self.rounds or self.done:
            return found.to(asked.dtype)
        change = float((found - guess).norm() / found.norm()) if number else 0.0
        self.change = max(self.change, change)
        # The next level is first guessed with the newest ε, which costs no call of the network.
        return self._up(found, noise, *self._pairs[number + 1]).to(asked.dtype)

    def _up(self, latents: torch.Tensor, noise: torch.Tensor, low: int, high: int) -> torch.Tensor:
        (alpha, sigma), (alpha_high, sigma_high) = self._level(low), self._level(high)
        return alpha_high * clean_of(latents, noise, alpha, sigma) + sigma_high * noise

    def _level(self, timestep: int) -> tuple[float, float]:
        tables = self.scheduler
        kept = tables.alphas_cumprod[timestep] if timestep >= 0 else tables.final_alpha_cumprod
        return math.sqrt(float(kept)), math.sqrt(max(0.0, 1.0 - float(kept)))


@contextmanager
def _backwards(scheduler: Any, steps: _Steps) -> Iterator[None]:
    """Lets a pipeline's own loop walk upwards: it tells the network all that it always tells."""
    before = dict(vars(scheduler))

    @functools.wraps(scheduler.set_timesteps)
    def set_timesteps(*args: Any, device: Any = None, **kwargs: Any) -> None:
        scheduler.timesteps = torch.tensor(steps.timesteps, device=device)
        scheduler.num_inference_steps = len(steps.timesteps)

    # Pipelines read the signature of `step` for eta and generator: hence `wraps`.
    @functools.wraps(scheduler.step)
    def step(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        return (steps.step(model_output, sample),)

    try:
        scheduler.set_timesteps, scheduler.step = set_timesteps, step
        yield
    finally:
        vars(scheduler).clear()
        vars(scheduler).update(before)


def _walkable(pipe: Any, parameters: Mapping[str, Any]) -> Any:
    """The scheduler of a pipeline whose sampling can be undone."""
    if not {"latents", "num_inference_steps"} <= parameters.keys():
        raise TypeError(
            f"{type(pipe).__name__} takes no latents=, so no noise could be given back to it; "
            "give the text-to-image pipeline of the same networks."
        )
    scheduler = scheduler_of(pipe)
    name = type(scheduler).__name__
    if name not in _SCHEDULERS:
        raise ValueError(
            f"invert walks DDIM's steps backwards, got {name}; set pipe.scheduler = "
            "DDIMScheduler.from_config(pipe.scheduler.config), and sample with it too."
        )
    assert scheduler is not None  # it has a name of the two
    for option in ("clip_sample", "thresholding"):
        if getattr(scheduler.config, option, False):
            raise ValueError(
                f"A scheduler with {option}=True can't be walked backwards (what it cuts off is "
                f"gone); set pipe.scheduler = DDIMScheduler.from_config(..., {option}=False)."
            )
    return scheduler


def check_inversion(pipe: Any, steps: Any, rounds: Any, call: Mapping[str, Any]) -> None:
    """Refuses a pipeline, schedule or keywords of which nothing can be inverted.

    Raises:
        TypeError: a pipeline without what is needed, or an unknown keyword.
        ValueError: a schedule that can't be walked backwards, or a value out of its range.
    """
    parameters = checks.parameters_of(pipe, "invert")
    scheduler = _walkable(pipe, parameters)
    for name in _OWN:
        if name in call:
            raise TypeError(f"invert decides {name} itself (see its help); leave it out.")
    most = int(scheduler.config.num_train_timesteps)
    told = {**call, "num_inference_steps": whole("num_inference_steps", steps, 1, most)}
    checks.check_call(pipe, parameters, told, "invert")
    whole("fixed_point", rounds, 0, MOST_ROUNDS)


def _each(prompt: str | Sequence[str], count: int) -> str | list[str]:
    prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
    if len(prompts) != count:
        raise ValueError(
            f"prompt must be one text or one for each picture, got {len(prompts)} texts and "
            f"{count} pictures."
        )
    return prompts[0] if count == 1 else prompts


def _size(pipe: Any, latents: torch.Tensor, parameters: Mapping[str, Any]) -> dict[str, int]:
    factor = getattr(pipe, "vae_scale_factor", None)
    if factor is None or not {"height", "width"} <= parameters.keys():
        return {}
    return {"height": latents.shape[2] * factor, "width": latents.shape[3] * factor}


def _checked(steps: _Steps) -> torch.Tensor:
    if not steps.done or steps.latents is None:
        raise RuntimeError("The pipeline stopped before the noise was reached; run invert again.")
    if not torch.isfinite(steps.latents).all():
        raise ValueError(
            "The inverted latents are not finite (NaN or infinite); load the pipeline with dtype "
            "float32, or take fewer rounds (fixed_point=1)."
        )
    if steps.change > _UNSETTLED:
        say(
            f"The fixed point did not settle: the last round still changed {steps.change:.0%} of "
            "the latents; take more steps or other rounds (fixed_point=0 is plain inversion)."
        )
    return steps.latents
