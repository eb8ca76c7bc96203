"""Arrays: batches, comparison, tasks, lowering to fp16 and int8, verdicts."""
