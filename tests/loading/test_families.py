"""Every family of ``families.py`` in its exact classes, recorded with one call.

Pictures are compared with a bare run, answers with a hook of the test's own.
"""

import warnings

import numpy as np
import pytest
import tiny_families
import tiny_rows
import torch

from ldmkit.loading import families
from ldmkit.recording import preview, record, recorder

CASES = tiny_families.CASES | tiny_rows.CASES  # by the name of the class
BARELY = 1e-5
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


def watched(case):
    """(bare picture, record, the network's answers of each step cut by the batch, sentences)."""
    pipe = case.build()
    prompt = {"prompt": case.call["prompt"]} if case.call.get("prompt") else {}
    call = {name: value for name, value in case.call.items() if name != "prompt"}
    torch.manual_seed(0)  # some draw from torch's own generator, too
    bare = pipe(**prompt, **call, generator=torch.Generator("cpu").manual_seed(7))
    bare = bare.images if "images" in bare else bare.image
    answers = []

    def keep(module, args, output):
        first = output if isinstance(output, torch.Tensor) else output[0]
        parts = first if isinstance(first, list) else torch.split(first, 1)
        answers.extend(part.detach().clone().numpy() for part in parts)

    hooks = [getattr(pipe, part).register_forward_hook(keep) for part in case.network.split()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        traj = record(pipe, *prompt.values(), seed=7, keep="all", preview="auto", **call)
    for hook in hooks:
        hook.remove()
    said = [str(one.message) for one in caught if one.category is UserWarning]
    return pipe, bare, traj, answers, [one for one in said if "diffusers" not in one]


@pytest.mark.parametrize("row", families.FAMILIES, ids=lambda row: row.classes[0])
def test_every_row_has_a_case(row):
    first = [next(r for r in families.FAMILIES if name.startswith(r.classes)) for name in NAMED]
    assert row in first


NAMED = [name for name in CASES if name.startswith(sum((r.classes for r in families.FAMILIES), ()))]


@pytest.mark.parametrize("name", CASES)
def test_a_family_is_recorded_whole(name):
    case = CASES[name]
    pipe, bare, traj, answers, said = watched(case)
    assert type(pipe).__name__ == name.split(",")[0]
    assert len(said) == len(case.told), said
    assert all(any(piece in one for one in said) for piece in case.told)
    image = np.asarray(traj.image)
    assert np.array_equal(np.asarray(bare[0]).reshape(image.shape), image), "recording changed it"
    n = len(traj.timesteps)
    assert traj.latents.shape == (n + 1, 1, *case.shape)
    if "don't exist" in "".join(said):  # no noise, and no estimates
        return
    for array in (traj.denoised, traj.noise_pred, traj.model_output):
        assert array.shape == (n, 1, *case.shape)
    assert (traj.noise_pred_text is not None) is (case.text is not None)
    assert (traj.noise_pred_uncond is not None) is (case.uncond is not None)
    assert traj.rgb.shape == (case.shape[0] + 1, 3)
    alpha, sigma = (level.reshape(-1, 1, 1, 1, 1) for level in (traj.alphas, traj.sigmas))
    law = alpha * traj.denoised + sigma * traj.noise_pred - traj.latents[:-1]
    assert np.abs(law[np.isfinite(law)]).max() <= BARELY * max(1.0, np.abs(traj.latents).max())
    count = len(answers) // n
    assert len(answers) % n == 0 or case.noise is None
    for step in range(
        1, n if case.noise is not None else 0
    ):  # at the first, pure noise, flow's ε is x whatever the answer
        x = traj.latents[step]
        for index, side in (
            (case.text, traj.noise_pred_text),
            (case.uncond, traj.noise_pred_uncond),
        ):
            if index is not None:
                answer = answers[step * count + index]
                noise = case.noise(answer, x, traj.alphas[step], traj.sigmas[step])
                assert np.abs(side[step] - noise).max() <= 1e-4 * max(1.0, np.abs(noise).max())
    flow = type(getattr(pipe, "scheduler", None)).__name__ == "FlowMatchEulerDiscreteScheduler"
    if flow and "Inpaint" not in name:  # each says the next
        follows = alpha[1:] * traj.denoised[:-1] + sigma[1:] * traj.noise_pred[:-1]
        apart = np.abs(follows - traj.latents[1:-1]).max()
        assert apart <= 1e-4 * max(1.0, np.abs(traj.latents).max())
    if None not in (case.text, case.uncond):
        apart = np.abs(traj.noise_pred_text - traj.noise_pred_uncond)[1:].max()
        assert apart > 1e-3, "the words do nothing in this network: the test could not fail"
    vae = families.autoencoder_of(pipe)
    if case.decodes and vae is not None:
        layout = families.layout_of(pipe, {})
        drawn = preview.decode(vae, layout.at_vae(traj.latents[-1]))[0]
        assert np.abs(drawn - np.asarray(traj.image, dtype=float)).max() <= 1


def test_a_family_that_nobody_described_keeps_its_tokens(monkeypatch):
    """Its latents, timesteps and picture are there, and one sentence says what isn't."""
    monkeypatch.setattr(families, "FAMILIES", ())
    case = CASES["FluxPipeline"]
    pipe = case.build()
    monkeypatch.delattr(type(pipe), "_unpack_latents")
    monkeypatch.setattr(type(pipe), "_unpack", lambda *a: None, raising=False)
    with pytest.warns(UserWarning, match="nobody described how latents") as said:
        traj = record(pipe, seed=7, output_type="latent", **case.call)
    assert len(said) == 1
    assert traj.latents.shape == (4, 1, 16, 1, 16)
    assert np.isfinite(traj.denoised).all()


def test_dits_batch_in_the_with_form():
    """DiT keeps each picture's latents twice; one recorder round the pipeline knows it, too."""
    pipe = tiny_families.dit()
    call = {"class_labels": [3, 5], "num_inference_steps": 2, "guidance_scale": 3.0}
    whole = record(pipe, seed=7, keep="all", **call)
    with recorder(pipe.scheduler, pipe.transformer, vae=pipe.vae, keep="all") as tape:
        pipe(generator=torch.Generator("cpu").manual_seed(7), **call)
    assert tape.trajectory.batch_size == whole.batch_size == 2
    for name in ("latents", "noise_pred_text", "noise_pred_uncond"):
        assert np.array_equal(getattr(tape.trajectory, name), getattr(whole, name))
