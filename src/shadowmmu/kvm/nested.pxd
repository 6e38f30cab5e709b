from .vcpu cimport Vcpu
