def require(device): pass
