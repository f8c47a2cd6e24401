"""Helpers of the guide that stand alone: batches and rates (`async_helper`), measurements (`performance_monitor`)."""
