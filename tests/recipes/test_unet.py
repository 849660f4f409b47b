"""What the U-Net's recipe does with weights of earlier runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from ldmkit.recipes import unet as recipe


def _tiny(seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        norm_num_groups=4,
        attention_head_dim=4,
    )


def test_a_blend_lies_between_its_two_networks(tmp_path: Path) -> None:
    ours, other = _tiny(0), _tiny(1)
    other.save_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    recipe.blend(ours, str(tmp_path), 0.25)
    gaps = [
        (tensor - (0.75 * before[name] + 0.25 * other.state_dict()[name])).abs().max()
        for name, tensor in ours.state_dict().items()
    ]
    assert float(max(gaps)) <= 1e-6
    recipe.blend(ours, str(tmp_path), 1.0)
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in ours.state_dict().items())
    with pytest.raises(ValueError, match=r"in 0 … 1, got 1.5"):
        recipe.blend(ours, str(tmp_path), 1.5)


def test_keeping_needs_something_to_keep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["unet", "--keep", "0.5"])
    with pytest.raises(SystemExit):
        recipe.main()
    assert "--keep needs --from or --kept" in capsys.readouterr().err
