"""The job that a competent user of Ray Data writes in forty lines; also with its CheckpointConfig.

Run again after a crash it leaves out what is there: by the paths in its Parquet files, or by Ray
Data's checkpoint. `campaign.py` kills it beside ours.
"""

import argparse
import glob
import os

import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig


class Segmenter:
    def __init__(self, model: str) -> None:
        from maskformer import MaskFormerForInstanceSegmentation, MaskFormerImageProcessor

        self.processor = MaskFormerImageProcessor.from_pretrained(model)
        self.model = MaskFormerForInstanceSegmentation.from_pretrained(model).eval()

    def __call__(self, batch):
        import torch

        images = list(batch["image"])
        with torch.inference_mode():
            output = self.model(**self.processor(images, return_tensors="pt"))
        sizes = [image.shape[:2] for image in images]
        found = self.processor.post_process_panoptic_segmentation(
            output, threshold=0.3, overlap_mask_area_threshold=0.05, target_sizes=sizes
        )
        _count(len(images))
        return {
            "path": batch["path"],
            "num_segments": [len(each["segments_info"]) for each in found],
        }


def done_paths(table: str) -> set[str]:
    done = set()
    for file in glob.glob(f"{table}/*.parquet"):
        try:
            done.update(pq.read_table(file, columns=["path"])["path"].to_pylist())
        except Exception:
            os.remove(file)  # a crash came into the middle of its writing
    return done


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--corpus", "--table", "--model", "--checkpoint"):
        parser.add_argument(name)
    options = parser.parse_args()
    # With two CPUs the actors of checkpoint and model leave none to the tasks that read.
    ray.init(address="local", num_cpus=4, _node_ip_address="127.0.0.1", include_dashboard=False)
    paths = sorted(glob.glob(f"{options.corpus}/*"))
    if options.checkpoint:
        DataContext.get_current().checkpoint_config = CheckpointConfig(
            id_column="path", checkpoint_path=options.checkpoint, delete_checkpoint_on_success=False
        )
    else:
        done = done_paths(options.table)
        paths = [path for path in paths if path not in done]
    if paths:
        ray.data.read_images(paths, include_paths=True, mode="RGB").map_batches(
            Segmenter,
            batch_size=4,
            compute=ActorPoolStrategy(size=1),
            fn_constructor_args=[options.model],
        ).write_parquet(options.table)


def _count(number: int) -> None:
    """For the campaign alone, as `counting` does for ours."""
    with open(os.path.join(os.environ["COUNTED"], str(os.getpid())), "a") as file:
        file.write(f"{number}\n")


if __name__ == "__main__":
    main()
