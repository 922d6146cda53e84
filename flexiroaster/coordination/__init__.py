"""What processes of one installation tell one another: locks, signs of life, cached reads, wake-ups and live events.

All of it makes the database faster and livelier; none of it is ever needed for a right answer.
"""
