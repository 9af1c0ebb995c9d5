"""Hours and dollars before they are spent: `captionkit plan`, and a job's `--dry-run`."""
