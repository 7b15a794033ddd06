"""Training: one loop for every engine and method, schedules of masks, measurements and costs."""
