"""Our own networks, trained from random weights on small images: ResNets, vision transformers, a dilated network, LeNet."""
