"""The problem: network, data, W0, recipe and loss, checked, rehearsed and identified."""
