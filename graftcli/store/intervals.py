"""How often a run saves its state and reports its progress. No result depends on it."""

SAVE_SECONDS = 8.0  # between two saved states; shorter tasks and passes are saved only at their end
REPORT_SECONDS = 0.2  # between two progress events
