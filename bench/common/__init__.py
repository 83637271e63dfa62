"""What every package may use: errors, paths, files, console, exit codes, compatibility. No torch."""
