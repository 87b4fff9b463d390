"""Models that are read from files draw no random weights first."""

import subprocess
import sys

import pytest
import torch
from tiny import make_tiny
from torch import nn

from maskformer import MaskFormerForInstanceSegmentation
from maskformer.network.initialisation import WithoutDraws


@pytest.mark.parametrize(
    "draw",
    [
        nn.init.normal_, nn.init.uniform_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_,
        nn.init.xavier_uniform_, nn.init.trunc_normal_,
    ],
)  # fmt: skip
def test_weights_are_not_drawn_and_constants_are_set(draw):
    weights = torch.ones(8, 8)
    with WithoutDraws():
        draw(weights)
        norm = nn.LayerNorm(8)
    assert not weights.any()
    assert norm.weight.eq(1).all()
    assert draw(weights).any(), "outside they are"


def test_a_model_from_a_file_has_its_weights_whole_and_draws_none(tmp_path):
    torch.manual_seed(0)
    model = make_tiny()
    model.save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    again = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state), "nothing was drawn"
    assert model.state_dict().keys() == again.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_weights_that_the_file_lacks_are_drawn(tmp_path):
    model = make_tiny()
    model.save_pretrained(tmp_path)
    labels = ["something new", "and another"]
    again = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path, labels=labels)
    assert again.class_predictor.weight.std(dim=1).gt(0).all()


def test_a_model_is_checked_and_loaded_without_the_compiler_of_torch(tmp_path):
    make_tiny().save_pretrained(tmp_path)
    code = (
        "import sys; from maskformer import MaskFormerForInstanceSegmentation as Model, conversion;"
        "conversion.check_model(sys.argv[1]); Model.from_pretrained(sys.argv[1]);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert not subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode
