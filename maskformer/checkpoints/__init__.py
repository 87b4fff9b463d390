"""Checkpoints of every dialect: files to named tensors, and their names to ours.

`folder` finds and checks the files, `files` reads what each holds without its numbers, `dialects`
translates names, `labels` matches two label sets, `checkpoint` and `loading` fill a model.
"""
