"""One file a command: a frozen request in, a report out. Plain Python; nothing here prints."""
