"""How good forecasts are: proper scores, and whether they are calibrated."""
