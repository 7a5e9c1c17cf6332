"""The stream plane: flows as byte streams and datagram sessions."""
