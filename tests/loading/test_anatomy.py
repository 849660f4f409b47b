"""``anatomy`` and the tables that show themselves."""

import pytest
import tiny
import tiny_unclip

import ldmkit
from ldmkit.records.stats import Table


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


def test_parts_in_the_order_of_the_flow(pipe):
    table = ldmkit.anatomy(pipe)
    assert table["part"] == ["tokenizer", "text_encoder", "unet", "scheduler", "vae"]
    rows = {row["part"]: row for row in table}
    assert rows["unet"]["class"] == "UNet2DConditionModel"
    assert rows["unet"]["parameters"] == sum(w.numel() for w in pipe.unet.parameters())
    assert rows["unet"]["in"] == rows["unet"]["out"] == "2 × 4 × 8 × 8"  # without and with words
    assert rows["text_encoder"]["in"] == "1 × 32"
    assert rows["text_encoder"]["out"] == "1 × 32 × 16"
    assert rows["vae"]["in"] == "1 × 4 × 8 × 8"
    assert rows["vae"]["out"] == "1 × 3 × 32 × 32"
    assert all(rows[part]["milliseconds"] > 0 for part in ("unet", "vae", "text_encoder"))
    assert rows["scheduler"].get("milliseconds") is None


def test_an_unclips_prior_comes_before_its_decoder():
    table = ldmkit.anatomy(tiny_unclip.stable())
    parts = [part for part in table["part"] if "image" not in part]
    prior = ["prior_tokenizer", "prior_text_encoder", "prior_scheduler", "prior"]
    assert sorted(parts[:4]) == sorted(prior)
    assert parts[4:] == ["tokenizer", "text_encoder", "unet", "scheduler", "vae"]
    rows = {row["part"]: row for row in table}
    assert rows["prior"]["in"] == "2 × 16"
    karlo = {row["part"]: row for row in ldmkit.anatomy(tiny_unclip.karlo())}
    assert karlo["decoder"]["in"] == "2 × 3 × 8 × 8"
    assert karlo["super_res_last"]["out"] == "1 × 3 × 16 × 16"


def test_it_leaves_no_hook_and_no_setting(pipe):
    pipe.set_progress_bar_config(disable=True, desc="mine")
    ldmkit.anatomy(pipe)
    assert pipe._progress_bar_config == {"disable": True, "desc": "mine"}
    for part in (pipe.unet, pipe.vae.decoder, pipe.text_encoder):
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_a_pipeline_that_wants_a_picture_shows_its_sizes():
    table = ldmkit.anatomy(tiny.pipeline("img2img", size="small"))
    rows = {row["part"]: row for row in table}
    assert rows["unet"]["parameters"] > 0


@pytest.mark.parametrize("raises", [None, IndexError("index 256"), RuntimeError("no such size")])
def test_a_large_model_draws_a_small_picture_and_nothing_is_raised(raises, monkeypatch):
    """Pipelines of FLUX.2, AuraFlow and Cosmos drew 1,024 pixels, or raised."""
    pipe, sizes = tiny.pipeline(size="small"), []
    plain = type(pipe).__call__

    def large(self, prompt=None, height: int = 1024, width: int = 1024, num_inference_steps=50):
        sizes.append((height, width, num_inference_steps))
        if raises is not None:
            raise raises
        return plain(self, prompt, height, width, num_inference_steps)

    monkeypatch.setattr(type(pipe), "__call__", large)
    pipe.unet.register_to_config(sample_size=128)
    if raises is None:
        table = ldmkit.anatomy(pipe)
    else:
        with pytest.warns(UserWarning, match=f"ended early \\({type(raises).__name__}") as said:
            table = ldmkit.anatomy(pipe)
        assert len(said) == 1
    assert sizes == [(128, 128, 2)]
    rows = {row["part"]: row for row in table}
    assert rows["unet"].get("in") == (None if raises else "2 × 4 × 32 × 32")
    assert rows["unet"]["parameters"] > 0


def test_what_is_no_pipeline():
    with pytest.raises(TypeError, match="anatomy takes a diffusers pipeline, got 'critters'"):
        ldmkit.anatomy("critters")


def test_models_names_the_embedded_one_and_is_honest():
    table = ldmkit.models()
    rows = {row["name"]: row for row in table}
    assert rows["critters"]["embedded"]
    assert rows["critters"]["download_gb"] == 0
    assert {row["checked"] for row in table} <= {"real weights", "random weights only"}
    assert all(row["download_gb"] > 0 for row in table if not row["embedded"])
    assert "critters" in repr(table)


def test_a_table_escapes_what_it_shows():
    table = Table(columns=("<b>",), rows=({"<b>": "<script>alert(1)</script>"},), caption="<i>")
    shown = table._repr_html_()
    for tag in ("<b>", "<script>", "<i>"):
        assert tag not in shown
    assert "&lt;script&gt;" in shown


def test_a_table_aligns_numbers():
    table = Table(columns=("name", "n"), rows=({"name": "a", "n": 1_000_000}, {"name": "bb"}))
    assert repr(table).splitlines() == [
        "name          n",
        "----  ---------",
        "a     1,000,000",
        "bb",
    ]
    assert len(table) == 2
    assert table["n"] == [1_000_000, None]
    with pytest.raises(KeyError, match="there are name, n"):
        table["x"]
