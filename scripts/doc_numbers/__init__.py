"""What the markers of numbers and tables in README.md and docs/ stand for; `fill_numbers.py` fills them."""
