"""Many pictures: which, what is made of each and where, side by side, and what is told."""
