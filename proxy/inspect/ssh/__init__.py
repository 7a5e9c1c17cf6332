"""SSH sessions that end in the proxy: users proved, channels ruled and recorded, origins reached with other keys.

bridge     the two SSH connections of a session, from their sockets to their end
client     what the client meets: host key, proof of who it is, channels
origin     what the origin meets: its host key verified, a certificate or key shown
channels   one channel of each side, tied together
algorithms what is offered and accepted
sftp       the file operations in an sftp stream, and those that are refused
recording  what a terminal showed, as asciicast v2
"""
