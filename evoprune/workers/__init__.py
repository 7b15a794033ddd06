"""Workers: the processes that evaluate masks."""
