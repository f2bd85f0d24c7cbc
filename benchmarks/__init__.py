"""How fast and how right: the plain way of counting intruder dimensions against the one of wanalyze."""
