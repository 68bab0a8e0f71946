"""The proof: winner and baseline measured again, interleaved."""
