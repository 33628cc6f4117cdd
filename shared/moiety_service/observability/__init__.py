"""Logs, metrics, traces and the audit log."""
