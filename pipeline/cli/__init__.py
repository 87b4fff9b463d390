"""The command: `maskformer` and its sub-commands, which `jobs/` start too; nothing imports it."""
