"""What everything else stands on: errors, the task, settings, files and arrays; no science."""
