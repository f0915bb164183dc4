"""Pictures and figures: sheets, labels, distances."""
