"""Runs and sizes side by side: read from their records, what differs between them, paired differences, tables for a paper."""
