SELECT deployment FROM installation
