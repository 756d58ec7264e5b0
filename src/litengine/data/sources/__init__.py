"""Where images come from: one small class a file, chosen with `--data.source <name>`."""
