"""The loss as a GPU gets it: how few operations it takes, and that pieces change nothing."""

from types import SimpleNamespace

import pytest
import torch
from counted_operations import launches, reads
from torch import Tensor

from maskformer.criterion import matcher, pieces
from maskformer.criterion.loss import MaskFormerLoss
from maskformer.criterion.matcher import MaskFormerHungarianMatcher
from maskformer.criterion.targets import IdMap

LAYERS, QUERIES, NUM_LABELS = 6, 20, 7


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pieces by torch's operations, in place of the CPU's compiled loops."""
    monkeypatch.setattr(pieces, "runs_in_loops", lambda logits: False)
    set_piece(monkeypatch, pieces.ON_A_GPU)


def set_piece(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr(pieces, "values_at_once", lambda device, *, on_cpu: values)


def assert_within(share: float, found: list[Tensor], expected: list[Tensor]) -> None:
    """Asserts that no value differs by more than this share of the largest expected one."""
    for each, wanted in zip(found, expected, strict=True):
        assert (each - wanted).abs().max() <= share * wanted.abs().max()


class Step:
    """Logits and targets of a batch, with the losses of all decoder layers."""

    def __init__(self, *, images: int, masks: int, size: tuple[int, int] = (64, 96)) -> None:
        generator = torch.Generator().manual_seed(0)
        small = (size[0] // 4, size[1] // 4)
        self.masks = torch.randn(images, LAYERS, QUERIES, *small, generator=generator)
        self.classes = torch.randn(images, LAYERS, QUERIES, NUM_LABELS + 1, generator=generator)
        self.masks.requires_grad_()
        self.classes.requires_grad_()
        columns = torch.arange(size[1]) * masks // size[1] + 1
        rows = torch.arange(images)[:, None, None]
        self.mask_labels = [
            IdMap(map=plane.int(), ids=torch.arange(1, masks + 1).int())
            for plane in (columns + rows) % (masks + 1) * torch.ones(size[0], 1, dtype=torch.long)
        ]
        self.class_labels = [
            torch.randint(NUM_LABELS, (masks,), generator=generator) for _ in range(images)
        ]
        cost = MaskFormerHungarianMatcher(1.0, 20.0, 1.0)
        self.criterion = MaskFormerLoss(NUM_LABELS, cost, {}, 0.1)

    def losses(self) -> dict[str, Tensor]:
        masks, classes = self.masks.unbind(1), self.classes.unbind(1)
        auxiliary = [
            {"masks_queries_logits": m, "class_queries_logits": c}
            for m, c in zip(masks[1:], classes[1:], strict=True)
        ]
        return self.criterion(
            masks[0],
            classes[0],
            self.mask_labels,
            self.class_labels,
            auxiliary,
            num_masks=torch.tensor(24.0),
            class_weight=torch.tensor(30.0),
        )

    def run(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        losses = self.losses()
        total = torch.stack(list(losses.values())).sum()
        return losses, list(torch.autograd.grad(total, [self.masks, self.classes]))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_step_of_eight_images_takes_few_operations_however_many_masks_it_has() -> None:
    few, many = (Step(images=8, masks=masks) for masks in (3, 12))
    counts = [sum(launches(step.run).values()) for step in (few, many)]
    assert counts[0] == counts[1]
    assert counts[1] <= 1_600  # one mask at a time: 38,700


@pytest.mark.usefixtures("as_on_a_gpu")
def test_matching_takes_few_operations_however_many_layers_there_are() -> None:
    step = Step(images=8, masks=12)
    masks, classes = list(step.masks.unbind(1)), list(step.classes.unbind(1))
    counts = [
        sum(
            launches(
                lambda some=some: step.criterion.matcher.match_layers(
                    masks[:some], classes[:some], step.mask_labels, step.class_labels
                )
            ).values()
        )
        for some in (2, LAYERS)
    ]
    assert counts[0] == counts[1] <= 500  # layer by layer: 2,100


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_host_reads_once_for_all_images_and_layers() -> None:
    assert [place.split(":")[0] for place in reads(Step(images=3, masks=4).run)] == ["matcher.py"]


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("values", [1, 64 * 96 * 5])
def test_pieces_of_any_size_give_the_same_losses_and_gradients(
    monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    step = Step(images=3, masks=12)
    losses, gradients = step.run()
    set_piece(monkeypatch, values)
    monkeypatch.setattr(matcher, "_PIXELS_AT_ONCE", 16 * 24 * 5)
    in_pieces, gradients_in_pieces = step.run()
    for name, loss in losses.items():
        torch.testing.assert_close(in_pieces[name], loss, rtol=1e-6, atol=1e-6)
    assert_within(1e-6, gradients_in_pieces, gradients)


def test_a_gpus_way_gives_the_losses_and_gradients_of_the_compiled_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Step(images=2, masks=12)
    losses, gradients = step.run()
    monkeypatch.setattr(pieces, "runs_in_loops", lambda logits: False)
    set_piece(monkeypatch, pieces.ON_A_GPU)
    by_operations, gradients_by_operations = step.run()
    for name, loss in losses.items():
        torch.testing.assert_close(by_operations[name], loss, rtol=1e-6, atol=1e-6)
    assert_within(2e-6, gradients_by_operations, gradients)


def test_all_layers_together_have_the_losses_of_each_alone() -> None:
    step = Step(images=2, masks=5)
    losses = step.losses()
    matching = step.criterion.matcher.match_layers(
        list(step.masks.unbind(1)),
        list(step.classes.unbind(1)),
        step.mask_labels,
        step.class_labels,
    )
    for layer, indices in enumerate(matching.layers):
        alone = step.criterion.loss_masks(
            step.masks[:, layer], step.mask_labels, indices, torch.tensor(24.0)
        )
        suffix = f"_{layer - 1}" if layer else ""
        for kind in ("loss_mask", "loss_dice"):
            torch.testing.assert_close(losses[kind + suffix], alone[kind], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("gigabytes", "expected"), [(80, pieces.ON_A_GPU), (24, 24 * 10**9 // (9 * 4 * 16))]
)
def test_pieces_on_a_small_gpu_take_a_small_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, expected: int
) -> None:
    card = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert pieces.values_at_once(torch.device("cuda"), on_cpu=5) == expected
    assert pieces.values_at_once(torch.device("cpu"), on_cpu=5) == 5
