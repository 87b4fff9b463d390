"""Who learns how fast, and when."""

import pytest
from tiny_training import tiny_model

from maskformer import (
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    TimmBackboneConfig,
)
from pipeline.training.optimisation import (
    OptimisationSettings,
    build_optimiser,
    freeze,
    freeze_unused,
    parameter_groups,
    rate_share,
    set_learning_rate,
)


def test_the_backbone_learns_slower_and_norms_embeddings_and_tables_do_not_decay():
    model = tiny_model()
    settings = OptimisationSettings(backbone_rate=0.1, weight_decay=0.05)
    learning = parameter_groups(model, settings=settings)
    groups = {
        id(parameter): (group["rate"], group["weight_decay"])
        for group in learning
        for parameter in group["params"]
    }
    of_name = {name: groups[id(parameter)] for name, parameter in model.named_parameters()}
    block = "model.pixel_level_module.encoder.model.encoder.layers.0.blocks.0"
    assert of_name[f"{block}.attention.self.qkv.weight"] == (0.1, 0.05)
    assert of_name[f"{block}.attention.self.relative_position_bias_table"] == (0.1, 0.0)
    assert of_name[f"{block}.layernorm_before.weight"] == (0.1, 0.0)
    assert of_name["class_predictor.weight"] == (1.0, 0.05)
    assert of_name["model.transformer_module.queries_embedder.weight"] == (1.0, 0.0)
    assert of_name["model.pixel_level_module.decoder.fpn.stem.1.weight"] == (1.0, 0.0)
    assert of_name["model.pixel_level_module.decoder.fpn.stem.0.weight"] == (1.0, 0.05)
    assert len(of_name) == sum(len(group["params"]) for group in learning)


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 1e-6), (750, 0.4979), (1500, 0.99156), (80_000, 0.53589), (159_999, 2.07e-5)],
)
def test_the_polynomial_rate_of_the_published_swin_recipe(step: int, share: float):
    settings = OptimisationSettings(num_steps=160_000, warmup_steps=1500, warmup_share=1e-6)
    assert rate_share(step, settings=settings) == pytest.approx(share, rel=1e-3)


def test_the_rate_falls_to_a_tenth_at_each_decay_step():
    settings = OptimisationSettings(num_steps=30, schedule="steps", decay_steps=(10, 20))
    shares = [rate_share(step, settings=settings) for step in (0, 9, 10, 19, 20, 29)]
    assert shares == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_each_group_gets_its_share_of_the_rate_of_the_step():
    model = tiny_model()
    settings = OptimisationSettings(num_steps=10, learning_rate=0.5, power=1, backbone_rate=0.1)
    optimiser = build_optimiser(model, settings=settings)
    assert set_learning_rate(optimiser, step=4, settings=settings) == pytest.approx(0.3)
    assert {round(group["lr"], 6) for group in optimiser.param_groups} == {0.3, 0.03}


def test_frozen_weights_have_no_gradient_and_their_modules_rest():
    model = tiny_model()
    resting = freeze(model, settings=OptimisationSettings(frozen_weights=("*.encoder.layers.0.*",)))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(".encoder.layers.0." in name for name in frozen)
    assert model.model.pixel_level_module.encoder.model.encoder.layers[0] in resting
    assert model.class_predictor not in resting


@pytest.mark.parametrize(("maps", "unused"), [([1, 2, 3], {"5", "6"}), ([1, 2, 3, 4], set())])
def test_stages_of_timm_beyond_the_last_map_do_not_learn(maps: list[int], unused: set[str]):
    model = MaskFormerForInstanceSegmentation(
        MaskFormerConfig(
            backbone_config={
                "model_type": "timm_backbone",
                "backbone": "tf_efficientnet_lite0",
                "out_indices": maps,
            }
        )
    )
    freeze_unused(model)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert {name.partition("_backbone.blocks.")[2][:1] for name in frozen} == unused


def test_a_backbone_for_images_of_one_size_alone_learns_whole():
    vit = TimmBackboneConfig(backbone="vit_tiny_patch16_224", out_indices=[8, 9, 10, 11])
    model = MaskFormerForInstanceSegmentation(MaskFormerConfig(backbone_config=vit)).train()
    freeze_unused(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_backbone_whose_maps_are_all_used_learns_whole():
    model = tiny_model()
    freeze_unused(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_pattern_that_matches_no_weight_is_refused():
    with pytest.raises(ValueError, match=r"'\*\.stage9\.\*' matches none"):
        freeze(tiny_model(), settings=OptimisationSettings(frozen_weights=("*.stage9.*",)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"average_decay": 1.5}, "average_decay must be in"),
        ({"decay_steps": (3,)}, "decay_steps belong to the schedule steps"),
        ({"schedule": "steps"}, "decay_steps belong to the schedule steps"),
        ({"schedule": "steps", "decay_steps": (5, 3)}, "decay_steps must rise"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ],
)
def test_rates_and_steps_that_make_no_sense_are_refused(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        OptimisationSettings(**values)
