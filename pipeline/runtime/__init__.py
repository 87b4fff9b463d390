"""What every program shares: settings, exit codes, the Ray cluster, progress, threads, memory."""
