"""Serves every program: settings, the Ray cluster, progress, statistics, threads, memory."""
