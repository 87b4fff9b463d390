"""Our models where transformers' own would be: in its Trainer and in its pipeline."""

import copy
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny import make_tiny

from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.model import MaskFormerForInstanceSegmentation

CAMVID = "maskformer-efficientnet-lite0-camvid"


class DrawnSamples(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {
            "pixel_values": torch.randn(3, 64, 64, generator=generator),
            "mask_labels": torch.ones(2, 64, 64),
            "class_labels": torch.tensor([0, 1]),
        }


def collated(samples):
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "mask_labels": [sample["mask_labels"] for sample in samples],
        "class_labels": [sample["class_labels"] for sample in samples],
    }


def trainer_of(model, folder, **settings):
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            str(folder),
            max_steps=1,
            per_device_train_batch_size=2,
            per_device_eval_batch_size=2,
            remove_unused_columns=False,
            label_names=["mask_labels", "class_labels"],
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=DrawnSamples(),
        eval_dataset=DrawnSamples(),
        data_collator=collated,
        processing_class=MaskFormerImageProcessor(),
    )


def test_the_trainer_trains_in_bfloat16_and_saves_a_folder_that_both_libraries_load(tmp_path):
    model = make_tiny()
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(model, tmp_path, bf16=True, save_steps=1)

    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(tmp_path / "model"))

    assert np.isfinite(loss)
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    for folder in (tmp_path / "model", tmp_path / "checkpoint-1"):
        loaded = MaskFormerForInstanceSegmentation.from_pretrained(folder)
        assert loaded.config.to_dict()["backbone_config"] == model.config.backbone_config.to_dict()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[name], value)
    theirs, info = transformers.MaskFormerForInstanceSegmentation.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert theirs.num_parameters() == model.num_parameters() + 2 * 128  # a norm that it never uses
    MaskFormerImageProcessor.from_pretrained(tmp_path / "model")


def test_the_trainer_goes_on_from_its_checkpoint(tmp_path):
    trainer_of(make_tiny(), tmp_path, save_steps=1).train()
    model = make_tiny(cross_entropy_weight=2.0)
    trainer = trainer_of(model, tmp_path)

    trainer.train(resume_from_checkpoint=True)

    saved = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path / "checkpoint-1")
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_the_trainer_takes_gradient_checkpointing_and_gives_the_same_gradients(tmp_path):
    models = [make_tiny(), make_tiny()]
    for model, checkpointing in zip(models, (False, True), strict=True):
        model.config.decoder_config.dropout = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer_of(
            model,
            tmp_path / str(checkpointing),
            gradient_checkpointing=checkpointing,
            save_strategy="no",
        ).train()

    assert not models[0].is_gradient_checkpointing
    assert models[1].is_gradient_checkpointing
    for (name, plain), recomputed in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        torch.testing.assert_close(recomputed, plain, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"every_n_layers": 2},
        {"offload": True},
    ],
    ids=str,
)
def test_checkpointing_of_another_kind_is_refused(settings):
    with pytest.raises(ValueError, match="gradient checkpointing computes every block"):
        make_tiny().gradient_checkpointing_enable(**settings)


def test_checkpointing_without_reentrance_may_be_asked_for_and_ended():
    model = make_tiny()

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_outputs_are_rebuilt_from_a_mapping_as_gathering_and_casting_do():
    output = make_tiny()(torch.zeros(1, 3, 64, 64))

    for entries in (dict(output), list(output.items())):
        rebuilt = type(output)(entries)
        assert list(rebuilt) == list(output)
        assert rebuilt.class_queries_logits is output.class_queries_logits
    rebuilt["target_size"] = [(64, 64)]
    assert list(rebuilt)[-1] == "target_size"
    assert len(output) == len(rebuilt) - 1
    del rebuilt["target_size"]
    assert "target_size" not in rebuilt
    with pytest.raises(TypeError, match="no field logits"):
        type(output)(logits=1)


def test_a_model_that_answers_as_theirs_is_pickled_and_copied_as_ours():
    model = make_tiny()

    assert isinstance(model, transformers.PreTrainedModel)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is MaskFormerForInstanceSegmentation
        torch.testing.assert_close(twin.state_dict(), model.state_dict())


def test_the_class_of_a_model_can_be_set_as_sharding_does():
    model = make_tiny()
    sharded = type("Sharded", (type(model),), {})

    model.__class__ = sharded

    assert type(model) is sharded
    assert isinstance(model, transformers.PreTrainedModel)


def test_the_pipeline_gives_the_segments_that_it_gives_of_their_model(shared):
    folder = shared / "weights" / CAMVID
    with tarfile.open(shared / "data" / "camvid" / "val-0000.tar") as archive:
        name = next(name for name in archive.getnames() if name.endswith(".jpg"))
        photo = Image.open(io.BytesIO(archive.extractfile(name).read())).convert("RGB")
    ours, theirs = (
        transformers.pipeline(
            "image-segmentation",
            model=library.MaskFormerForInstanceSegmentation.from_pretrained(folder),
            image_processor=library.MaskFormerImageProcessor.from_pretrained(folder),
        )(photo)
        for library in (__import__("maskformer"), transformers)
    )

    assert len(ours) == len(theirs) > 3
    assert {one["label"] for one in ours} == {one["label"] for one in theirs}
    for one in ours:
        other = next(other for other in theirs if other["label"] == one["label"])
        assert one["mask"].size == photo.size
        assert abs(one["score"] - other["score"]) < 0.01


def test_the_pipeline_takes_a_model_and_a_processor_and_saves_them(tmp_path):
    model, processor = make_tiny(), MaskFormerImageProcessor(size={"height": 64, "width": 64})
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    run = transformers.pipeline("image-segmentation", model=model, image_processor=processor)

    found = run([photo, photo], threshold=0.0)
    semantic = run(photo, subtask="semantic")
    run.save_pretrained(tmp_path)

    assert len(found) == 2
    assert {segment["label"] for segment in semantic} <= set(model.config.id2label.values())
    assert semantic[0]["mask"].size == photo.size
    MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
