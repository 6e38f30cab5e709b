"""What the model and recordings of real KVM say, for people: decoded words, histories, pages, differences."""
