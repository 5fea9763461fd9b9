"""What a shuffled epoch over stored chunks costs."""
