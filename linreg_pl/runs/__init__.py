"""What a run leaves: its folder, report, figures and checkpoints. Empty: `report` needs neither torch nor numpy."""
