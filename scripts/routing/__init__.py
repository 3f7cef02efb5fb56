"""What plot_routing.py draws of an analysis by olmoe-analyze."""
