"""How often a run saves its state and reports its progress. No result depends on it."""

SAVE_SECONDS = 8.0  # between two saved states; a task or a pass that takes less is saved at its end only
REPORT_SECONDS = 0.2  # between two progress events
